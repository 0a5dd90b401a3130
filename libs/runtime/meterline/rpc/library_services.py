"""Health and reflection, which the library implements, on a server of ours.

They are open to everybody, so that what they get may be anything. For bytes that are no request the library
fails as UNKNOWN, with a line of the log; here such a call is INVALID_ARGUMENT, as on every other service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

Context = aio.ServicerContext[Any, Any]


def add_library_services(
    server: aio.Server, health_servicer: health.aio.HealthServicer, names: Sequence[str]
) -> None:
    """Mounts both. `names` are the full names of the services that reflection tells of."""
    registry: Any = _Registry(server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, registry)
    told = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    servicer = reflection.aio.ReflectionServicer(service_names=told)
    add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add_reflection(servicer, registry)


class _Registry:
    """Stands in for the server while handlers are registered, and wraps each of them."""

    def __init__(self, server: aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Not needed: the registered form below serves every call."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        wrapped = {name: _wrapped(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))


def _wrapped(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    codecs = {"request_deserializer": None, "response_serializer": handler.response_serializer}

    async def read(raw: bytes, context: Context) -> Any:
        try:
            return handler.request_deserializer(raw)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "request: must be a message of the proto")

    # The library's one stream of answers to one request writes them itself, and so returns as a call does.
    async def answer(raw: bytes, context: Context) -> Any:
        request = await read(raw, context)
        return await (handler.unary_unary or handler.unary_stream)(request, context)

    async def converse(raws: AsyncIterator[bytes], context: Context) -> None:
        async def requests() -> AsyncIterator[Any]:
            async for raw in raws:
                yield await read(raw, context)

        async with aclosing(handler.stream_stream(requests(), context)) as answers:
            async for each in answers:
                await context.write(each)

    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(answer, **codecs)
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(_any(answer), **codecs)
    return grpc.stream_stream_rpc_method_handler(_any(converse), **codecs)


def _any(behaviour: Callable[..., Any]) -> Any:
    """The stubs know no handlers that write their answers themselves."""
    return behaviour
