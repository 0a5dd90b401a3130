"""Bounds on unauthenticated callers over real sockets: they cannot use the capacity of known callers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from meterline.auth.principals import Permission
from meterline.rpc import calls, doors
from meterline.rpc.client import Caller
from meterline.rpc.client import channel as service_channel
from meterline.rpc.doors import MAX_METADATA_BYTES, Arrivals, Bounds
from meterline.rpc.server import Server

from tests.integration.runtime.test_authentication import AUTHORITY, Keys
from tests.support.calls import NAME, client_of, server_of, started
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T2.4", "T4.1")

Code = grpc.StatusCode
WATCHES = 5
# Gives a channel its own connection, which it does not share with other channels of this process.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def guarded(bounds: Bounds, keys: Keys | None = None, **behaviour: Any) -> Server:
    return server_of(gate=(keys or Keys()).gate(), bounds=bounds, grace=0.1, **behaviour)


def health_of(channel: aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def first_of(call: Any) -> grpc.StatusCode:
    """OK once a stream has answered anything, else the status of its refusal."""
    try:
        await call.read()
    except aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def flood_of_watches(server: Server, channel: aio.Channel, count: int) -> list[Code]:
    request = health_pb2.HealthCheckRequest()
    watched = [health_of(channel).Watch(request) for _ in range(count)]
    codes = await asyncio.gather(*map(first_of, watched))
    for call in watched:
        call.cancel()
    await eventually(lambda: server.doors.watches.held, until=lambda held: held == 0)
    return codes


async def test_unauthenticated_streams_are_bounded_and_refused_ones_leave_no_task() -> None:
    server = guarded(Bounds(watches=WATCHES))
    async with started(server) as channel:
        await server.serve()
        await flood_of_watches(server, channel, 20)
        before = len(asyncio.all_tasks())
        for _ in range(3):
            codes = await flood_of_watches(server, channel, 200)
            assert codes.count(Code.OK) == WATCHES
            assert codes.count(Code.RESOURCE_EXHAUSTED) == 200 - WATCHES
        await eventually(lambda: len(asyncio.all_tasks()), until=lambda now: now <= before)
        # Health checks and known callers are not affected.
        assert (await health_of(channel).Check(health_pb2.HealthCheckRequest())).status
        assert await client_of(channel).ask("x", metadata=AUTHORITY.metadata(Permission.READ)) == "x"


async def test_unbounded_lane_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors.Lane, "__enter__", _enter_without_bound)
    server = guarded(Bounds(watches=WATCHES))
    async with started(server) as channel:
        await server.serve()
        assert (await flood_of_watches(server, channel, 20)).count(Code.OK) == 20


def _enter_without_bound(lane: doors.Lane) -> doors.Lane:
    lane.held += 1
    return lane


@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Watch", f"/{NAME}/Ask"])
async def test_calls_without_request_message_do_not_block_others(path: str) -> None:
    """More calls than the bounds allow are opened, and never send their request."""
    server = guarded(Bounds(watches=WATCHES, strangers=WATCHES, signed=WATCHES))
    async with started(server) as channel:
        await server.serve()
        any_channel: Any = channel
        silent = [any_channel.stream_stream(path)(timeout=60) for _ in range(50)]
        await eventually(lambda: sum(call.done() for call in silent), until=lambda done: done >= 45)
        assert await client_of(channel).ask("x", metadata=AUTHORITY.metadata(Permission.READ)) == "x"
        for call in silent:
            call.cancel()


async def test_health_check_is_answered_despite_many_silent_calls() -> None:
    server = guarded(Bounds(watches=WATCHES))
    async with started(server) as channel:
        await server.serve()
        any_channel: Any = channel
        silent = [any_channel.stream_stream("/grpc.health.v1.Health/Check")(timeout=60) for _ in range(50)]
        for _ in range(3):
            assert (await health_of(channel).Check(health_pb2.HealthCheckRequest())).status
        await eventually(lambda: sum(call.done() for call in silent), until=lambda done: done >= 45)
        ended = [call for call in silent if call.done()]
        assert {await call.code() for call in ended} == {Code.RESOURCE_EXHAUSTED}
        for call in silent:
            call.cancel()


class Silent:
    """A call whose request arrives when the test sets `sent`."""

    def __init__(self) -> None:
        self.sent: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def read(self) -> bytes:
        return await self.sent


async def test_oldest_waiting_call_is_dropped_first() -> None:
    arrivals = Arrivals(2)
    calls: list[Any] = [Silent() for _ in range(3)]
    reads = [asyncio.create_task(arrivals.read(call)) for call in calls]
    done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
    assert done == {reads[0]}
    assert "is full" in str(reads[0].exception())
    for call in calls[1:]:
        call.sent.set_result(b"sent")
    assert await asyncio.gather(*reads[1:]) == [b"sent", b"sent"]
    assert arrivals.held == 0


# --- connections


async def closed(one: socket.socket) -> bool:
    """Whether the other side has closed the connection; discards what it sent."""
    try:
        while one.recv(4_096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def silent_sockets(server: Server, count: int) -> list[socket.socket]:
    host, _, port = server.address.rpartition(":")
    found = [socket.create_connection((host, int(port))) for _ in range(count)]
    for one in found:
        one.setblocking(False)
    return found


async def how_many_closed(sockets: list[socket.socket]) -> int:
    return sum([await closed(one) for one in sockets])


async def test_silent_connections_are_closed() -> None:
    server = guarded(Bounds(handshake_seconds=1))
    async with started(server):
        sockets = silent_sockets(server, 30)
        await eventually(lambda: how_many_closed(sockets), until=lambda gone: gone == 30)
        for one in sockets:
            one.close()


async def test_connection_count_is_bounded() -> None:
    server = guarded(Bounds(connections=5))
    async with started(server):
        sockets = silent_sockets(server, 20)
        await eventually(lambda: how_many_closed(sockets), until=lambda gone: gone == 15)
        for one in sockets:
            one.close()

        async def is_accepted() -> bool:
            async with aio.insecure_channel(server.address, options=OWN_CONNECTION) as channel:
                return bool(
                    await health_of(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                )

        assert await eventually(is_accepted)


async def test_oversized_metadata_is_refused() -> None:
    server = guarded(Bounds())
    async with started(server) as channel:
        ask = client_of(channel).ask
        known = AUTHORITY.metadata(Permission.READ)
        assert await ask("x", metadata=(*known, ("x-more", "m" * (MAX_METADATA_BYTES // 2)))) == "x"
        with pytest.raises(aio.AioRpcError) as caught:
            await ask("x", metadata=(*known, ("x-more", "m" * MAX_METADATA_BYTES)))
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        assert await ask("x", metadata=known) == "x"


async def test_calls_succeed_across_connection_age_limits() -> None:
    """Many short calls and one long call, over several maximum ages of a connection."""
    peers: set[str] = set()
    go_on, arrived = asyncio.Event(), asyncio.Event()

    async def ask(text: str) -> str:
        if text == "long":
            arrived.set()
            await go_on.wait()
        return text

    server = guarded(Bounds(age_seconds=0.3, age_grace_seconds=60), ask=ask)
    original = calls._Call.__aenter__

    async def noting(self: Any) -> Any:
        peers.add(self._context.peer())
        return await original(self)

    async with AsyncExitStack() as stack:
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        monkeypatch.setattr(calls._Call, "__aenter__", noting)
        await stack.enter_async_context(started(server))
        signer = AUTHORITY.signer(Permission.READ)
        channel = await stack.enter_async_context(service_channel(server.address, Caller(signer.token)))
        # Like the application client, which retries calls itself and not in the channel.
        options = [*OWN_CONNECTION, ("grpc.enable_retries", 0)]
        bare = await stack.enter_async_context(aio.insecure_channel(server.address, options=options))
        client = client_of(channel)
        long = asyncio.ensure_future(client.ask("long", timeout=60))
        await arrived.wait()

        async def again() -> int:
            assert await client.ask("short", timeout=30) == "short"
            known = AUTHORITY.metadata(Permission.READ)
            assert await client_of(bare).ask("short", timeout=30, metadata=known) == "short"
            return len(peers)

        await eventually(again, seconds=60, until=lambda seen: seen >= 7)
        go_on.set()
        assert await long == "long"


# --- unauthenticated and known callers


async def test_key_lookups_of_unknown_callers_do_not_block_known_callers() -> None:
    keys = Keys()
    _, holder = keys.make(Permission.READ)
    _, others = keys.make(Permission.READ)
    server = guarded(Bounds(strangers=2), keys)
    async with started(server) as channel:
        client = client_of(channel)
        assert await client.ask("x", metadata=holder) == "x"
        keys.answers.clear()
        lost = [asyncio.ensure_future(client.ask("x", metadata=keys.make()[1])) for _ in range(20)]
        await eventually(lambda: sum(one.done() for one in lost), until=lambda done: done == 18)
        assert {one.exception().code() for one in lost if one.done()} == {Code.RESOURCE_EXHAUSTED}
        assert await client.ask("y", metadata=holder) == "y"
        keys.answers.set()
        await asyncio.gather(*lost, return_exceptions=True)
        assert await client.ask("z", metadata=others) == "z"


async def test_calls_of_known_callers_are_bounded() -> None:
    go_on = asyncio.Event()

    async def ask(text: str) -> str:
        await go_on.wait()
        return text

    server = guarded(Bounds(calls=3), ask=ask)
    async with started(server) as channel:
        known = AUTHORITY.metadata(Permission.READ)
        asked = [asyncio.ensure_future(client_of(channel).ask("x", metadata=known)) for _ in range(10)]
        await eventually(lambda: sum(one.done() for one in asked), until=lambda done: done == 7)
        go_on.set()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert results.count("x") == 3
        codes = {one.code() for one in results if isinstance(one, aio.AioRpcError)}
        assert codes == {Code.RESOURCE_EXHAUSTED}


async def test_request_streams_count_against_the_call_bound() -> None:
    async def talk(texts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for text in texts:
            yield text

    server = guarded(Bounds(calls=1), talk=talk)
    async with started(server) as channel:
        known = AUTHORITY.metadata(Permission.CAPTURE)
        first = client_of(channel).talk(metadata=known)
        await first.write("a")
        assert await first.read() == "a"
        assert await first_of(client_of(channel).talk(metadata=known)) is Code.RESOURCE_EXHAUSTED
        await first.done_writing()
        assert await first.read() is aio.EOF
        await eventually(lambda: server.doors.calls.held, until=lambda held: held == 0)
