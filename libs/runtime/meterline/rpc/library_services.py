"""Health and reflection, which the library implements, on a server of ours.

They are open to everybody, so their requests may be any bytes. For bytes that are no request the library
fails as UNKNOWN, with a line of the log; here such a call is INVALID_ARGUMENT, as on every other service.
Streams have a lane of their own. A health check is answered at once and needs none: it only waits for its
request, and a new check displaces the one that has waited longest for its own.
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

from meterline.errors import InvalidArgumentError, MeterlineError
from meterline.rpc.doors import Arrivals, Doors
from meterline.rpc.errors import abort, to_status

Context = aio.ServicerContext[Any, Any]


def add_library_services(
    server: aio.Server, health_servicer: health.aio.HealthServicer, names: Sequence[str], doors: Doors
) -> None:
    """Mounts both. `names` are the full names of the services that reflection lists."""
    registry: Any = _Registry(server, doors)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, registry)
    listed = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    servicer = reflection.aio.ReflectionServicer(service_names=listed)
    add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add_reflection(servicer, registry)


class _Registry:
    """Stands in for the server while handlers are registered, and wraps each of them."""

    def __init__(self, server: aio.Server, doors: Doors) -> None:
        self._server = server
        self._doors = doors
        # Not shared with other strangers: nobody's signed calls push health checks aside.
        self._checks = Arrivals(doors.bounds.watches)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Not needed: the registered form below serves every call."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        wrapped = {name: self._wrapped(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))

    def _wrapped(self, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """Whatever its kind, as a stream of requests: nothing of them is read before there is room."""

        def read(raw: bytes) -> Any:
            try:
                return handler.request_deserializer(raw)
            except DecodeError:
                raise InvalidArgumentError("request", "must be a message of the proto") from None

        async def check(_: object, context: Context) -> None:
            async with _Refusing(context):
                request = read(await self._checks.read(context))
                await context.write(await handler.unary_unary(request, context))

        # The library's one stream of answers to one request writes them itself.
        async def watch(_: object, context: Context) -> None:
            async with _Refusing(context):
                with self._doors.watches:
                    await handler.unary_stream(read(await self._doors.arrivals.read(context)), context)

        async def converse(raws: AsyncIterator[bytes], context: Context) -> None:
            async def requests() -> AsyncIterator[Any]:
                async for raw in raws:
                    yield read(raw)

            async with _Refusing(context):
                with self._doors.watches:
                    async with aclosing(handler.stream_stream(requests(), context)) as answers:
                        async for each in answers:
                            await context.write(each)

        way: Callable[..., Any] = (
            check if handler.unary_unary else watch if handler.unary_stream else converse
        )
        return grpc.stream_stream_rpc_method_handler(way, None, handler.response_serializer)


class _Refusing:
    """Answers the caller with the reason of the refusal."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, MeterlineError):
            await abort(self._context, to_status(error))
