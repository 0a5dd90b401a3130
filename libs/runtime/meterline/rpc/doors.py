"""Bounds of what callers use of a server: connections, streams, and concurrent calls.

Callers that are not known yet have lanes of their own, so that they take no capacity from known callers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final, Self

from grpc import aio

from meterline.errors import InvalidArgumentError, OverloadedError

# More than any call needs, and gRPC's default hard limit.
MAX_METADATA_BYTES: Final = 16_384
_RETRY_SECONDS: Final = 0.5
# A stranger's request that has not come by then is given up.
_PATIENCE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a server takes at once, and for how long a connection lasts.

    calls: of known callers, being served
    strangers: whose callers are being looked up
    signed: that bring a proof of their own in place of a token, being served
    watches: of health and reflection, which are open to everybody
    connections: beyond it new ones are closed at once
    streams: calls of one connection; further ones wait in the client
    age_seconds: after it the server asks the client to replace the connection (GOAWAY)
    age_grace_seconds: how long calls that are under way on it may still take
    idle_seconds: a connection without calls is closed
    handshake_seconds: a connection that has not completed its handshake is closed
    """

    calls: int = 10_000
    strangers: int = 200
    signed: int = 1_000
    watches: int = 100
    connections: int = 2_000
    streams: int = 1_000
    age_seconds: float = 3_600
    age_grace_seconds: float = 3_600
    idle_seconds: float = 600
    handshake_seconds: float = 20

    def options(self) -> list[tuple[str, int]]:
        """As the library takes them."""
        return [
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_connection_age_ms", _ms(self.age_seconds)),
            ("grpc.max_connection_age_grace_ms", _ms(self.age_grace_seconds)),
            ("grpc.max_connection_idle_ms", _ms(self.idle_seconds)),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_seconds)),
            # With different ones the library refuses by chance what lies between them.
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # The third ping in shorter succession than that closes the connection.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_ping_strikes", 2),
        ]


class Lane:
    """Calls of one kind at once: `with lane:` around each. Raises OverloadedError when it is full."""

    __slots__ = ("_most", "_what", "held")

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self.held = 0

    def __enter__(self) -> Self:
        if self.held >= self._most:
            raise OverloadedError(self._what, _RETRY_SECONDS)
        self.held += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.held -= 1


class Arrivals:
    """Requests of strangers that are still arriving. When there are too many, the oldest one is given up, so
    a caller that sends at once is always read, however many others send nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[asyncio.Timeout, None] = {}

    @property
    def held(self) -> int:
        return len(self._waiting)

    async def read(self, context: aio.ServicerContext[Any, Any]) -> bytes:
        """The next message of a call. Raises OverloadedError, and InvalidArgumentError when none comes."""
        if len(self._waiting) >= self._most:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.reschedule(0)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS) as patience:
                self._waiting[patience] = None
                return await read_one(context)
        except TimeoutError:
            raise OverloadedError("the wait for requests", _RETRY_SECONDS) from None
        finally:
            self._waiting.pop(patience, None)


@dataclass(slots=True)
class Doors:
    """The ways into one server."""

    bounds: Bounds = field(default_factory=Bounds)
    calls: Lane = field(init=False)
    strangers: Lane = field(init=False)
    signed: Lane = field(init=False)
    watches: Lane = field(init=False)
    arrivals: Arrivals = field(init=False)

    def __post_init__(self) -> None:
        self.calls = Lane("the server", self.bounds.calls)
        self.strangers = Lane("the lane of unknown callers", self.bounds.strangers)
        self.signed = Lane("the lane of signed calls", self.bounds.signed)
        self.watches = Lane("the lane of health and reflection", self.bounds.watches)
        self.arrivals = Arrivals(self.bounds.signed)


async def read_one(context: aio.ServicerContext[Any, Any]) -> bytes:
    """The next message of a call, which must have one. Raises InvalidArgumentError."""
    raw = await context.read()
    if raw is aio.EOF:
        raise InvalidArgumentError("request", "must be sent", "REQUEST_MISSING")
    taken: bytes = raw
    return taken


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
