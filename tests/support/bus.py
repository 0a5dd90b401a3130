"""The broker for a test: the session's server without streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import nats
import pytest
from meterline.bus.connection import Bus
from meterline.bus.subjects import FACTS
from meterline_dev.servers import NatsServer
from meterline_dev.testing import scratch_directory
from nats.aio.client import Client
from nats.js.errors import NotFoundError

OpenBus = Callable[..., Awaitable[Bus]]


async def delete_streams(url: str) -> None:
    """Deletes all streams with their messages and consumers."""
    client = await nats.connect(url, allow_reconnect=False, connect_timeout=5)
    try:
        manager = client.jsm()
        while names := [info.config.name for info in await manager.streams_info()]:
            for name in names:
                try:
                    await manager.delete_stream(name or "")
                except NotFoundError:
                    continue
    finally:
        await client.close()


async def unanswered(client: Client, stream: str, consumer: str) -> int:
    """The number of messages of a stream that its consumer has not acknowledged.

    Computed from the stream's last message: the consumer's own count learns of a new message only after its
    publisher does, and is zero until then.
    """
    manager = client.jsm()
    last = (await manager.stream_info(stream)).state.last_seq
    floor = (await manager.consumer_info(stream, consumer)).ack_floor
    return last - (floor.stream_seq if floor else 0)


@pytest.fixture
async def broker(nats_server: NatsServer) -> NatsServer:
    """The session's broker, running and empty. The test may stop and restart it."""
    nats_server.start()
    await delete_streams(nats_server.url)
    return nats_server


@pytest.fixture
def own_broker() -> Iterator[NatsServer]:
    """A separate broker for the test, which may be wiped."""
    with scratch_directory() as place, NatsServer(place / "nats") as server:
        yield server


@pytest.fixture
async def open_bus(broker: NatsServer) -> AsyncIterator[OpenBus]:
    """A function `(name="test", url="") -> Bus`: a new connection, to `broker` unless a URL is given, with
    all streams created. All connections are stopped after the test."""
    opened: list[Bus] = []

    async def make(name: str = "test", url: str = "") -> Bus:
        bus = Bus(url or broker.url, name=name)
        opened.append(bus)
        await bus.start()
        await bus.ensure_streams(*FACTS)
        return bus

    yield make
    for bus in opened:
        await bus.stop()


@pytest.fixture
async def bus(open_bus: OpenBus) -> Bus:
    """A started connection to `broker`."""
    return await open_bus()
