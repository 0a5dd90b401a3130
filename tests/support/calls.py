"""The runtime's gRPC server with one service, `probe.Probe`, whose behaviour a test defines.

Messages are texts. `Ask` answers a call with one message, `Talk` a stream of messages with another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import status_pb2
from grpc import aio
from grpc_status import rpc_status
from meterline.auth.gate import Anybody, Gate
from meterline.auth.principals import Permission
from meterline.auth.rules import Reach, Rule, Rules
from meterline.rpc.server import Server

NAME = "probe.Probe"

Ask = Callable[[str], Awaitable[str]]
Talk = Callable[[AsyncIterator[str]], AsyncIterator[str]]


async def echo(text: str) -> str:
    return text


async def echo_all(texts: AsyncIterator[str]) -> AsyncIterator[str]:
    async for text in texts:
        yield text


RULES: Rules = {f"{NAME}/Ask": Rule(Permission.READ), f"{NAME}/Talk": Rule(Permission.CAPTURE, Reach.EVENTS)}
OPEN = Gate(RULES, Anybody())


def server_of(
    ask: Ask = echo, talk: Talk = echo_all, *, port: int = 0, gate: Gate | None = None, **options: Any
) -> Server:
    """A server that is not started. It admits every call unless a gate is given."""

    async def answer(request: str, _: object) -> str:
        return await ask(request)

    async def converse(requests: AsyncIterator[str], _: object) -> AsyncIterator[str]:
        async for text in talk(requests):
            yield text

    def add(_: object, registry: Any) -> None:
        codecs: dict[str, Any] = {"request_deserializer": _decode, "response_serializer": _encode}
        handlers: dict[str, Any] = {
            "Ask": grpc.unary_unary_rpc_method_handler(answer, **codecs),
            "Talk": grpc.stream_stream_rpc_method_handler(converse, **codecs),
        }
        registry.add_registered_method_handlers(NAME, handlers)

    return Server("127.0.0.1", port, [(NAME, add, object())], gate=gate or OPEN, **options)


@dataclass(frozen=True)
class Client:
    """`await client.ask("text", timeout=1.0, metadata=...)`, and likewise `talk`."""

    channel: aio.Channel
    ask: Any
    talk: Any


def client_of(channel: aio.Channel) -> Client:
    codecs: dict[str, Any] = {"request_serializer": _encode, "response_deserializer": _decode}
    return Client(
        channel,
        channel.unary_unary(f"/{NAME}/Ask", **codecs),
        channel.stream_stream(f"/{NAME}/Talk", **codecs),
    )


@asynccontextmanager
async def started(server: Server) -> AsyncIterator[aio.Channel]:
    """Starts `server`, yields a channel to it, and stops it at the end if the test has not.

    A running server would block the end of the process.
    """
    await server.start()
    try:
        async with aio.insecure_channel(server.address) as channel:
            yield channel
    finally:
        await server.stop()


@asynccontextmanager
async def serving(ask: Ask = echo, talk: Talk = echo_all) -> AsyncIterator[Client]:
    """A client of a server with this behaviour."""
    server = server_of(ask, talk, grace=0.5)
    async with started(server) as channel:
        await server.serve()
        yield client_of(channel)


def status_of(error: aio.AioRpcError) -> status_pb2.Status:
    """The rich status of a failed call."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None, "the error has no details"
    return status


def _encode(text: str) -> bytes:
    return StringValue(value=text).SerializeToString()


def _decode(data: bytes) -> str:
    return StringValue.FromString(data).value
