"""A gRPC server with authentication, health per service, reflection, tracing, deadlines and rich errors.

Handlers are wrapped once, when they are registered, and not by interceptors, which are built anew for
every call.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self, cast

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio
from grpc_health.v1 import health, health_pb2
from grpc_status import rpc_status
from opentelemetry import trace

from meterline.auth.gate import Gate, Metadata
from meterline.auth.principals import Principal, acting_as
from meterline.auth.rules import Reach, Rule, require
from meterline.db.pool import time_left
from meterline.errors import InternalError, InvalidArgumentError, MeterlineError
from meterline.rpc.errors import STATUS_CODES, to_status
from meterline.rpc.library_services import add_library_services
from meterline.rpc.readers import Reader, with_readers
from meterline.rpc.texts import check_texts
from meterline.tasks import aside
from meterline.telemetry import metrics, propagation
from meterline.telemetry.logging import logger
from meterline.telemetry.tracing import tracer

log = logger()

# A handler gives up this much before its caller does, so that the answer still arrives.
DEADLINE_MARGIN_SECONDS = 0.05

MAX_MESSAGE_BYTES = 4 << 20
# A request of more bytes is read beside the loop.
LARGE_REQUEST = 1 << 20

Servicer = tuple[str, Callable[[Any, Any], None], object]


def service(
    module: ModuleType, name: str, servicer: object, readers: Mapping[str, Reader] | None = None
) -> Servicer:
    """A servicer as the server takes it. `module` is the generated one that describes the service; `readers`
    read the requests of some methods, by their names, in place of the generated code."""
    add = getattr(importlib.import_module(f"{module.__name__}_grpc"), f"add_{name}Servicer_to_server")
    if readers:
        add = with_readers(add, readers)
    return module.DESCRIPTOR.services_by_name[name].full_name, add, servicer


class Server:
    """`servicers` are (full service name, generated add function, servicer).

    Their calls pass `gate`; health and reflection are open to everybody. Without `credentials` all of it is
    plain text.
    """

    def __init__(
        self,
        host: str,
        port: int,
        servicers: Sequence[Servicer],
        *,
        gate: Gate,
        credentials: grpc.ServerCredentials | None = None,
        drain: float = 0.0,
        grace: float = 10.0,
    ) -> None:
        self._host = host
        self._port = port
        self._servicers = servicers
        self._gate = gate
        self._credentials = credentials
        self._drain = drain
        self._grace = grace
        self._server: aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self.address = ""

    async def start(self) -> None:
        """Binds; raises OSError when the port is taken. Health is NOT_SERVING until `serve`."""
        if self._server is not None:
            return
        server = aio.server(
            options=[
                # Else a second server would bind the same port, silently.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + (64 << 10)),
                ("grpc.max_send_message_length", 64 << 20),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ]
        )
        registry = _Registry(server, self._gate)
        for _, add, servicer in self._servicers:
            add(servicer, registry)
        add_library_services(server, self._health, [name for name, _, _ in self._servicers])
        try:
            port = self._bind(server, f"{self._host}:{self._port}")
        except RuntimeError as error:
            raise OSError(f"cannot bind {self._host}:{self._port}") from error
        self.address = f"{self._host}:{port}"
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await server.start()
        self._server = server

    def _bind(self, server: aio.Server, address: str) -> int:
        if self._credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._credentials)

    async def serve(self) -> None:
        """Everything behind the server is up: answers SERVING."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """NOT_SERVING, wait for load balancers, then finish the calls under way."""
        server, self._server = self._server, None
        if server is None:
            return
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(self._drain)
        await server.stop(self._grace)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *(name for name, _, _ in self._servicers)):
            await self._health.set(name, status)


class _Registry:
    """Stands in for the server while handlers are registered, and wraps each of them."""

    def __init__(self, server: aio.Server, gate: Gate) -> None:
        self._server = server
        self._gate = gate

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Not needed: the registered form below serves every call."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        wrapped = {
            name: _wrap(f"{service}/{name}", handler, self._gate) for name, handler in handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(service, wrapped)
        self._server.add_generic_rpc_handlers((generic,))


def _wrap(
    method: str, handler: grpc.RpcMethodHandler[Any, Any], gate: Gate
) -> grpc.RpcMethodHandler[Any, Any]:
    # Requests come as bytes, and are read by `_Entry` once it is known who sends them.
    codecs = {"request_deserializer": None, "response_serializer": handler.response_serializer}
    streams_in = bool(handler.request_streaming)
    rule = gate.rule(method, streams_in=streams_in)
    entry = _Entry(method, gate, rule, streams_in, handler.request_deserializer)
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(_unary(entry, handler.unary_unary), **codecs)
    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(
            _streaming(entry, cast("Any", handler.stream_stream)), **codecs
        )
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(
            _streaming(entry, cast("Any", handler.unary_stream)), **codecs
        )
    raise TypeError(f"{method}: calls of this kind are not instrumented")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A method, and what it demands of its callers and their requests."""

    method: str
    gate: Gate
    rule: Rule
    streams_in: bool
    deserializer: Callable[[bytes], Any] | None

    async def read(self, raw: bytes) -> Any:
        """The request. Raises InvalidArgumentError for bytes that are none."""
        if self.deserializer is None:
            return raw
        try:
            if len(raw) > LARGE_REQUEST:
                return await aside(self.deserializer, raw)
            return self.deserializer(raw)
        except DecodeError:
            raise InvalidArgumentError(
                "request", "must be a message of the proto", "REQUEST_INVALID"
            ) from None

    async def admit(self, metadata: Metadata, raw: bytes) -> tuple[Principal, Any]:
        """Who calls, and the request. What strangers send is not read; what may not be asked is not judged.

        Raises as `Gate` does, and InvalidArgumentError.
        """
        principal = await self.gate.identify(self.rule, metadata)
        request = await self.read(raw)
        require(self.rule, principal, request)
        if self.rule.reach is not Reach.EVENTS and isinstance(request, Message):
            check_texts(request, self.rule.judged_singly)
        return principal, request


def _unary(entry: _Entry, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(raw: bytes, context: aio.ServicerContext[Any, Any]) -> Any:
        async with _Call(entry.method, context) as metadata:
            principal, request = await entry.admit(metadata, raw)
            with acting_as(principal):
                return await behaviour(request, context)

    return call


def _streaming(
    entry: _Entry, behaviour: Callable[..., AsyncGenerator[Any, None]]
) -> Callable[..., Awaitable[None]]:
    # Written, not yielded: the server drops the generator of a call that its caller has left, and the
    # interpreter then closes it whenever and in whatever context it likes.
    async def call(sent: Any, context: aio.ServicerContext[Any, Any]) -> None:
        async with _Call(entry.method, context) as metadata:
            taken: Any = None
            if not entry.streams_in:
                _, taken = await entry.admit(metadata, sent)

            async def admitted() -> Principal:
                return await entry.gate.admit(entry.rule, metadata, taken)

            principal = await admitted()
            if entry.streams_in:
                taken = _Guarded(sent, entry.read, admitted)
            with acting_as(principal):
                async with aclosing(behaviour(taken, context)) as responses:
                    async for response in responses:
                        await admitted()
                        await context.write(response)

    return call


class _Guarded:
    """The requests of a stream, for as long as its caller would be let in anew."""

    __slots__ = ("_admitted", "_read", "_requests")

    def __init__(
        self,
        requests: AsyncIterator[bytes],
        read: Callable[[bytes], Awaitable[Any]],
        admitted: Callable[[], Awaitable[object]],
    ) -> None:
        self._requests = aiter(requests)
        self._read = read
        self._admitted = admitted

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        raw = await anext(self._requests)
        await self._admitted()
        return await self._read(raw)


class _Call:
    """One call being served: its span, its deadline, its outcome."""

    __slots__ = ("_context", "_method", "_span", "_started", "_token")

    def __init__(self, method: str, context: aio.ServicerContext[Any, Any]) -> None:
        self._method = method
        self._context = context

    async def __aenter__(self) -> Metadata:
        """The metadata of the call."""
        self._started = time.perf_counter()
        metadata: Metadata = self._context.invocation_metadata() or ()
        carrier = {key: value for key, value in metadata if key in ("traceparent", "tracestate")}
        self._span = tracer().start_as_current_span(
            self._method,
            context=propagation.extract(carrier),  # type: ignore[arg-type]
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": self._method},
            record_exception=False,
            set_status_on_exception=False,
        )
        self._span.__enter__()
        self._token = time_left.set(self._time_left)
        return metadata

    def _time_left(self) -> float | None:
        remaining = self._context.time_remaining()
        # Without a deadline the library answers with a very large number.
        return None if remaining is None or remaining > 86_400 else remaining - DEADLINE_MARGIN_SECONDS

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        time_left.reset(self._token)
        status = None
        if isinstance(error, MeterlineError):
            status = to_status(error)
        elif error is not None and not isinstance(
            error, aio.AbortError | asyncio.CancelledError | GeneratorExit
        ):
            log.exception("rpc.fault", method=self._method, exc_info=error)
            status = to_status(InternalError("internal error"))
        code = STATUS_CODES[status.code].name if status else "CANCELLED" if error else "OK"
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attribute("rpc.response.status_code", code)
            if status is not None:
                span.set_status(trace.Status(trace.StatusCode.ERROR, status.message))
        self._span.__exit__(None, None, None)
        metrics.RPC_SECONDS.labels(self._method, code).observe(time.perf_counter() - self._started)
        if status is not None:
            rich = rpc_status.to_status(status)
            await self._context.abort(rich.code, rich.details, rich.trailing_metadata)
