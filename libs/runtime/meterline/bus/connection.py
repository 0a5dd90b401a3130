"""A connection to the broker that comes back by itself, and the streams on it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from meterline.bus.subjects import FACTS, STREAM_MAX_AGE, Fact
from meterline.errors import UnavailableError
from meterline.telemetry.logging import logger

log = logger()


class UnsafeBrokerError(Exception):
    """The broker acknowledges messages that a power cut would lose."""


class Bus:
    """One connection for a service. `start` and `stop` may be called twice."""

    def __init__(self, url: str, *, name: str, replicas: int = 1) -> None:
        self._url = url
        self._name = name
        self._replicas = replicas
        self._client: Client | None = None
        self._on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self._lost = asyncio.Event()

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
        """Returns when the connection is lost: what was asked over it will not be answered any more."""
        await self._lost.wait()

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Streams may be gone after a reconnect; consumers ask again for what they had asked."""
        self._on_reconnect.append(callback)

    async def start(self) -> None:
        if self._client is not None:
            return
        self._client = await nats.connect(
            self._url,
            name=self._name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.2,
            connect_timeout=2,
            ping_interval=10,
            # Publishing while disconnected must raise, not pile up in memory.
            pending_size=-1,
            error_cb=self._log_error,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
        )
        await self.ensure_streams()

    async def stop(self) -> None:
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            try:
                await client.drain()
            except (nats.errors.Error, TimeoutError):
                await client.close()

    async def ensure_streams(self, *facts: Fact) -> None:
        """Creates the streams of `facts`, or of all facts, that are missing. Safe from several services at
        once."""
        jetstream = self.jetstream()
        for fact in facts or FACTS:
            await ensure_stream(jetstream, fact, self._replicas)

    async def _reconnected(self) -> None:
        self._lost.clear()
        log.info("broker.reconnected")
        for callback in self._on_reconnect:
            try:
                await callback()
            except (nats.errors.Error, TimeoutError, OSError) as error:
                # The next heartbeat that stays out asks again.
                log.warning("broker.resume_failed", error=str(error))

    @staticmethod
    async def _log_error(error: Exception) -> None:
        log.warning("broker.error", error=str(error) or type(error).__name__)

    async def _disconnected(self) -> None:
        self._lost.set()
        if self._client is not None:  # else it is our own stop
            log.warning("broker.disconnected")


async def ensure_stream(jetstream: JetStreamContext, fact: Fact, replicas: int) -> None:
    """A full stream refuses new messages, so that they stay in the outbox; it never drops old ones."""
    try:
        await jetstream.stream_info(fact.stream)
    except nats.js.errors.NotFoundError:
        config = StreamConfig(
            name=fact.stream,
            subjects=[fact.subject],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_age=STREAM_MAX_AGE.total_seconds(),
            duplicate_window=120.0,
            num_replicas=replicas,
        )
        await jetstream.add_stream(config)


async def require_synced_jetstream(monitor_url: str) -> None:
    """Refuses a broker whose `sync_interval` is not `always` (docs/adr/0002).

    `monitor_url` is the broker's HTTP monitoring address. Raises UnsafeBrokerError, and OSError when the
    broker does not answer there.
    """
    if not monitor_url:
        raise UnsafeBrokerError("no METERLINE_NATS_MONITOR_URL: cannot tell whether sync_interval is always")
    answer = await asyncio.to_thread(_read, f"{monitor_url.rstrip('/')}/varz")
    settings: dict[str, Any] = json.loads(answer).get("jetstream", {}).get("config", {})
    if not settings.get("sync_always"):
        raise UnsafeBrokerError(
            "the broker's JetStream needs `sync_interval: always`; set"
            " METERLINE_ALLOW_UNSYNCED_JETSTREAM=true only for development"
        )


def _read(url: str) -> bytes:
    """The body at `url`, past any proxy of the environment. Blocks for some seconds at most."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5.0) as answer:
        body: bytes = answer.read()
    return body
