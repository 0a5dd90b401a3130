"""A connection to the broker, under a login of its own, that comes back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from meterline import tasks
from meterline.bus.address import BrokerAddress
from meterline.bus.permissions import inbox_prefix
from meterline.bus.safety import BrokerRefusedError, UnsafeBrokerError
from meterline.bus.streams import ensure_stream
from meterline.bus.subjects import Fact, facts_of
from meterline.errors import UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger

log = logger()

_REOPEN_SECONDS: Final = 2.0

FAILURES: Final = (
    nats.errors.Error,
    UnavailableError,
    UnsafeBrokerError,
    BrokerRefusedError,
    TimeoutError,
    OSError,
)
"""Errors of requests to the broker that are no fault of the calling code."""


class Bus:
    """One connection for a service. `start` and `stop` may be called twice."""

    def __init__(self, url: str, *, name: str, replicas: int = 1) -> None:
        """
        url: see `BrokerAddress.parse`; raises ValueError when it is not one
        name: of the service, whose facts and inbox these are
        replicas: copies that the broker keeps of each stream it creates
        """
        self._address = BrokerAddress.parse(url)
        self._name = name
        self._replicas = replicas
        self._client: Client | None = None
        self._on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self._lost = asyncio.Event()
        self._connecting = False
        self._refusals: list[str] = []
        self._reopening: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            raise UnavailableError("the bus is not started")
        return self._client

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    def jetstream(self, timeout: float = 5.0) -> JetStreamContext:
        return self.client.jetstream(timeout=timeout)

    async def lost(self) -> None:
        """Returns when the connection is lost: pending requests over it will not be answered."""
        await self._lost.wait()

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """`callback` runs after a reconnect: streams may be gone, and consumers must ask again."""
        self._on_reconnect.append(callback)

    async def start(self) -> None:
        """Waits until the broker is available. Raises BrokerRefusedError when it refuses the login."""
        if self._client is not None:
            return
        self._client = await self._connect()
        await self.ensure_streams()

    async def stop(self) -> None:
        client, self._client = self._client, None
        reopening, self._reopening = self._reopening, None
        if reopening is not None:
            await tasks.end(reopening)
        if client is not None and not client.is_closed:
            try:
                await client.drain()
            except (nats.errors.Error, TimeoutError):
                await client.close()

    async def ensure_streams(self, *facts: Fact) -> None:
        """Creates the missing streams of `facts`, or by default of all facts that the service uses.

        Several services may do this at once. Raises UnsafeBrokerError as `ensure_stream` does."""
        jetstream = self.jetstream()
        with self.naming_refusals():
            for fact in facts or facts_of(self._name):
                await ensure_stream(jetstream, fact, self._replicas)

    @contextmanager
    def naming_refusals(self) -> Iterator[None]:
        """Raises BrokerRefusedError in place of a timeout, when the broker refused permission meanwhile: it
        does not answer what it refuses."""
        self._refusals.clear()
        try:
            yield
        except nats.errors.TimeoutError as error:
            if self._refusals:
                raise BrokerRefusedError(f"user {self._address.user!r}: {self._refusals[0]}") from error
            raise

    async def _connect(self) -> Client:
        client = Client()
        self._connecting = True
        try:
            await client.connect(
                self._address.server,
                user=self._address.user or None,
                password=self._address.password or None,
                name=self._name,
                inbox_prefix=inbox_prefix(self._name),
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,  # type: ignore[arg-type]
                connect_timeout=2,
                ping_interval=10,
                # Publishing while disconnected must raise, not pile up in memory.
                pending_size=-1,
                error_cb=self._note_error,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                closed_cb=self._closed,
            )
        except BaseException:
            await client.close()
            raise
        finally:
            self._connecting = False
        return client

    async def _note_error(self, error: Exception) -> None:
        """Raises BrokerRefusedError, out of `_connect`, when the login is refused there: to repeat it at once
        would not help."""
        text = str(error) or type(error).__name__
        if "authorization violation" in text.lower():
            log.error("broker.login_refused", user=self._address.user, server=self._address.server)
            metrics.BROKER_REFUSALS.labels("login").inc()
            if self._connecting:
                raise BrokerRefusedError(
                    f"the broker at {self._address.server} refuses the login of user {self._address.user!r};"
                    " see METERLINE_NATS_URL"
                ) from None
        elif "permissions violation" in text.lower():
            log.error("broker.permission_refused", user=self._address.user, error=text)
            metrics.BROKER_REFUSALS.labels("permission").inc()
            self._refusals = [text]
        else:
            log.warning("broker.error", error=text)

    async def _disconnected(self) -> None:
        self._lost.set()
        if self._client is not None:  # else it is our own stop
            log.warning("broker.disconnected")

    async def _reconnected(self) -> None:
        self._lost.clear()
        log.info("broker.reconnected")
        for callback in self._on_reconnect:
            try:
                await callback()
            except FAILURES as error:
                # The next heartbeat that stays out asks again.
                log.warning("broker.resume_failed", error=str(error) or type(error).__name__)

    async def _closed(self) -> None:
        """The client gives up for good when the broker revokes the login under which it is connected."""
        if self._client is not None and self._reopening is None:  # else it is our own stop
            log.error("broker.closed")
            self._reopening = asyncio.create_task(self._reopen(), name=f"{self._name}-reopen")

    async def _reopen(self) -> None:
        """Tries until the login is good again."""
        while True:
            await asyncio.sleep(_REOPEN_SECONDS)
            try:
                self._client = await self._connect()
                break
            except FAILURES as error:
                log.warning("broker.not_reopened", error=str(error) or type(error).__name__)
        self._reopening = None
        await self._reconnected()
