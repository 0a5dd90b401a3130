"""The gRPC server: health, reflection, errors with details, and a graceful stop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from meterline.errors import InvalidArgumentError, OverloadedError

from tests.support.calls import NAME, OPEN, client_of, server_of, serving, started, status_of
from tests.support.polling import eventually

pytestmark = pytest.mark.req("K1", "K2")

Status = health_pb2.HealthCheckResponse


async def health(channel: aio.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer: Status = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return answer.status


# --- starting


async def test_server_refuses_a_port_in_use() -> None:
    first = server_of()
    async with started(first):
        second = server_of(port=int(first.address.rpartition(":")[2]))
        with pytest.raises(OSError, match="cannot bind"):
            async with started(second):
                pass
    async with started(second):
        assert second.address == first.address


@pytest.mark.parametrize("service", ["", NAME])
async def test_health_is_not_serving_before_startup_is_complete(service: str) -> None:
    server = server_of(grace=0.1)
    async with started(server) as channel:
        assert await health(channel, service) == Status.NOT_SERVING
        await server.serve()
        assert await health(channel, service) == Status.SERVING


async def test_health_of_unknown_service_is_not_found() -> None:
    async with serving() as client:
        with pytest.raises(aio.AioRpcError) as caught:
            await health(client.channel, "some.other.Service")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_services() -> None:
    async with serving() as client:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", client.channel))
        (answer,) = [
            response
            async for response in stub.ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            )
        ]
    names = {service.name for service in answer.list_services_response.service}
    assert names == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_health_watch_reports_changes() -> None:
    server = server_of(grace=0.1)
    async with started(server) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watched = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watched.read()).status == Status.NOT_SERVING
        await server.serve()
        assert (await watched.read()).status == Status.SERVING
        watched.cancel()


# --- failures


@pytest.mark.req("T8.3")
@pytest.mark.parametrize(
    "path",
    [
        f"/{NAME}/Ask",
        f"/{NAME}/Talk",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_unparseable_request_is_an_invalid_argument(path: str) -> None:
    async with serving() as client:
        channel: Any = client.channel
        call = channel.stream_stream(path)(iter([b"\x0a\x7f"]))
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == "request: must be a message of the proto"


async def refuse(text: str) -> str:
    raise InvalidArgumentError("text", f"must not be {text}")


async def test_error_arrives_with_its_details() -> None:
    async with serving(refuse) as client:
        with pytest.raises(aio.AioRpcError) as caught:
            await client.ask("x")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = status_of(caught.value)
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    (violation,) = bad.field_violations
    assert (violation.field, violation.description) == ("text", "must not be x")


async def test_internal_error_does_not_expose_details() -> None:
    async def fail(text: str) -> str:
        raise ZeroDivisionError("secret of the house")

    async with serving(fail) as client:
        with pytest.raises(aio.AioRpcError) as caught:
            await client.ask("x")
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert caught.value.details() == "internal error"


async def test_stream_ends_with_error_details() -> None:
    async def talk(texts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for text in texts:
            yield text
            raise OverloadedError("queue", 2.5)

    async with serving(talk=talk) as client:
        call = client.talk(iter(["first", "second"]))
        assert await call.read() == "first"
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    status = status_of(caught.value)
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2_500


async def test_stream_handler_ends_when_caller_cancels(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    async def talk(texts: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for text in texts:
                yield text
        finally:
            ended.set()

    async with serving(talk=talk) as client:
        call = client.talk()
        await call.write("hello")
        assert await call.read() == "hello"
        call.cancel()
        async with asyncio.timeout(5):
            await ended.wait()
        assert await client.ask("still there") == "still there"
    assert [record.getMessage() for record in caplog.records] == []


async def test_cancelled_stream_handler_ends_in_its_own_context(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = asyncio.Event()

    async def talk(texts: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for text in texts:
                while True:  # until the caller, who does not read on, has no more room
                    yield text
        finally:
            ended.set()

    async with serving(talk=talk) as client:
        call = client.talk()
        await call.write("x" * 100_000)
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await ended.wait()
        assert await client.ask("still there") == "still there"
    gc.collect()
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.req("T2.4")
async def test_message_above_transport_limit_is_refused() -> None:
    async with serving() as client:
        with pytest.raises(aio.AioRpcError) as caught:
            await client.ask("x" * (5 << 20))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await client.ask("still there") == "still there"


@pytest.mark.req("T2.4")
async def test_request_above_its_rpc_limit_is_refused_before_parsing() -> None:
    read = []

    async def ask(text: str) -> str:
        read.append(len(text))
        return ""

    # The encoded text is preceded by a tag and its length.
    most = OPEN.rule(f"{NAME}/Ask", streams_in=False).max_bytes - 4
    async with serving(ask) as client:
        await client.ask("x" * most)
        with pytest.raises(aio.AioRpcError) as caught:
            await client.ask("x" * (most + 1))
    assert read == [most]
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "REQUEST_TOO_LARGE" in str(status_of(caught.value))


# --- stopping


async def test_stop_finishes_current_calls_and_refuses_new_ones() -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(text: str) -> str:
        arrived.set()
        await go_on.wait()
        return text

    server = server_of(slow, grace=10.0)
    async with started(server) as channel:
        await server.serve()
        call = asyncio.ensure_future(client_of(channel).ask("x"))
        await arrived.wait()
        stopping = asyncio.create_task(server.stop())
        async with aio.insecure_channel(server.address) as late:

            async def refused() -> bool:
                try:
                    await client_of(late).ask("late", timeout=0.2)
                except aio.AioRpcError as error:
                    return error.code() == grpc.StatusCode.UNAVAILABLE
                return False

            await eventually(refused)
        go_on.set()
        assert await call == "x"
        await stopping


async def test_stop_reports_not_serving_before_refusing_calls() -> None:
    server = server_of(drain=0.5, grace=0.1)
    async with started(server) as channel:
        await server.serve()
        stopping = asyncio.create_task(server.stop())
        await eventually(lambda: health(channel), until=lambda status: status == Status.NOT_SERVING)
        assert await client_of(channel).ask("meanwhile") == "meanwhile"
        await stopping


async def test_start_and_stop_may_be_called_twice() -> None:
    server = server_of(grace=0.1)
    await server.stop()
    for _ in range(2):
        async with started(server) as channel:
            await server.start()
            await server.serve()
            assert await client_of(channel).ask("x") == "x"
            assert await health(channel) == Status.SERVING
            await server.stop()
