"""The handlers of a server, each wrapped once: authentication, the checks of its request, and its outcome.

A known caller's request is read by gRPC before the handler runs. Of any other call nothing is read before the
caller is authenticated, so that strangers take neither memory nor capacity from others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self, cast

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio
from opentelemetry import trace

from meterline.auth.gate import Gate, Metadata
from meterline.auth.principals import STRANGER, Principal, acting_as
from meterline.auth.rules import Reach, Rule, require
from meterline.deadline import time_left
from meterline.errors import InternalError, InvalidArgumentError, MeterlineError
from meterline.rpc.doors import Doors, Lane, read_one
from meterline.rpc.errors import STATUS_CODES, abort, to_status
from meterline.rpc.texts import check_texts
from meterline.slugs import check_slug
from meterline.tasks import in_thread
from meterline.telemetry import metrics, propagation
from meterline.telemetry.logging import logger
from meterline.telemetry.tracing import tracer

log = logger()

# A handler gives up this much before its caller does, so that the answer still arrives.
DEADLINE_MARGIN_SECONDS = 0.05
# A request of more bytes is parsed outside the event loop, in a thread.
LARGE_REQUEST = 1 << 20
# The texts of a request of more bytes are checked in a thread too: that takes up to 40 ms.
_MANY_TEXTS = 64 << 10

_TRACE_HEADERS = ("traceparent", "tracestate")

Context = aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler, which cannot be subscripted when it runs


class Methods(grpc.GenericRpcHandler):
    """All methods of a server. Stands in for the server while handlers are registered."""

    def __init__(self, gate: Gate, doors: Doors) -> None:
        self._gate = gate
        self._doors = doors
        self._methods: dict[str, _Method] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Not needed: the registered form below serves every call."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        for name, handler in handlers.items():
            method = f"{service}/{name}"
            self._methods[f"/{method}"] = _wrap(method, handler, self._gate, self._doors)

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a call, before anything of its request is read."""
        method = self._methods.get(details.method)
        return None if method is None else method.handler(details.invocation_metadata)


@dataclass(frozen=True, slots=True)
class _Method:
    """known: gets the request, read by the library. unknown: reads it once it is known who calls."""

    entry: _Entry
    known: Handler
    unknown: Handler

    def handler(self, metadata: Metadata) -> Handler:
        return self.known if self.entry.gate.knows(self.entry.rule, metadata) else self.unknown


def _wrap(method: str, handler: Handler, gate: Gate, doors: Doors) -> _Method:
    # Requests come as bytes, and are read by `_Entry` once it is known who sends them.
    codecs = {"request_deserializer": None, "response_serializer": handler.response_serializer}
    streams_in = bool(handler.request_streaming)
    rule = gate.rule(method, streams_in=streams_in)
    entry = _Entry(method, gate, rule, doors, handler.request_deserializer)
    if handler.unary_unary:
        known = grpc.unary_unary_rpc_method_handler(_unary(entry, handler.unary_unary), **codecs)
        unknown: Any = _unknown_unary(entry, handler.unary_unary)
        return _Method(entry, known, grpc.stream_stream_rpc_method_handler(unknown, **codecs))
    if handler.stream_stream:
        both: Any = _stream_stream(entry, cast("Any", handler.stream_stream))
        streaming = grpc.stream_stream_rpc_method_handler(both, **codecs)
        return _Method(entry, streaming, streaming)
    if handler.unary_stream:
        known_stream, unknown = _streaming(entry, cast("Any", handler.unary_stream))
        return _Method(
            entry,
            grpc.unary_stream_rpc_method_handler(known_stream, **codecs),
            grpc.stream_stream_rpc_method_handler(unknown, **codecs),
        )
    raise TypeError(f"{method}: calls of this kind are not instrumented")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A method, and what it demands of its callers and their requests."""

    method: str
    gate: Gate
    rule: Rule
    doors: Doors
    deserializer: Callable[[bytes], Any] | None

    async def identify(self, metadata: Metadata) -> Principal:
        """Who calls. Raises as `Gate` does, and OverloadedError for strangers when there are too many."""
        if self.gate.knows(self.rule, metadata):
            return await self.gate.identify(self.rule, metadata)
        with self.doors.strangers:
            return await self.gate.identify(self.rule, metadata)

    def lane(self, principal: Principal) -> Lane:
        return self.doors.signed if principal is STRANGER else self.doors.calls

    async def receive(self, principal: Principal, context: Context) -> bytes:
        """The one request of a call that was not read by the library. Raises InvalidArgumentError, and
        OverloadedError for strangers who take too long."""
        if principal is STRANGER:
            return await self.doors.arrivals.read(context)
        return await read_one(context)

    async def read(self, raw: bytes) -> Any:
        """The request. Raises InvalidArgumentError for bytes that are none, or too many."""
        if len(raw) > self.rule.max_bytes:
            raise InvalidArgumentError(
                "request", f"at most {self.rule.max_bytes:,} bytes", "REQUEST_TOO_LARGE"
            )
        if self.deserializer is None:
            return raw
        try:
            if len(raw) > LARGE_REQUEST:
                return await in_thread(self.deserializer, raw)
            return self.deserializer(raw)
        except DecodeError:
            raise InvalidArgumentError(
                "request", "must be a message of the proto", "REQUEST_INVALID"
            ) from None

    async def admit(self, principal: Principal, raw: bytes) -> Any:
        """The request. Permission is checked before its content.

        Raises PermissionDeniedError and InvalidArgumentError.
        """
        request = await self.read(raw)
        require(self.rule, principal, request)
        if self.rule.reach is not Reach.EVENTS and isinstance(request, Message):
            if len(raw) > _MANY_TEXTS:
                await in_thread(check_texts, request, self.rule.judged_singly)
            else:
                check_texts(request, self.rule.judged_singly)
            if named := getattr(request, "tenant_id", ""):
                # Here for all methods, so that an impossible tenant name gets the same answer from each.
                check_slug("tenant_id", named)
        return request


def _unary(entry: _Entry, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(raw: bytes, context: Context) -> Any:
        async with _Call(entry.method, context) as served:
            principal = served.begin(await entry.identify(served.metadata))
            with entry.doors.calls, acting_as(principal):
                return await behaviour(await entry.admit(principal, raw), context)

    return call


def _unknown_unary(entry: _Entry, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[None]]:
    async def call(_: object, context: Context) -> None:
        async with _Call(entry.method, context) as served:
            principal = served.begin(await entry.identify(served.metadata))
            raw = await entry.receive(principal, context)
            with entry.lane(principal), acting_as(principal):
                response = await behaviour(await entry.admit(principal, raw), context)
            await context.write(response)

    return call


# Answers are written, not yielded: the server drops the generator of a call that its caller has left, and the
# interpreter then closes it whenever and in whatever context it likes.


def _streaming(
    entry: _Entry, behaviour: Callable[..., AsyncGenerator[Any, None]]
) -> tuple[Callable[..., Awaitable[None]], Callable[..., Awaitable[None]]]:
    """One request and many answers: for those who are known, and for those who are not."""

    async def answer(served: _Call, principal: Principal, raw: bytes, context: Context) -> None:
        with entry.lane(principal), acting_as(principal):
            request = await entry.admit(principal, raw)
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    await entry.gate.admit(entry.rule, served.metadata, request)
                    await context.write(response)

    async def known(raw: bytes, context: Context) -> None:
        async with _Call(entry.method, context) as served:
            principal = served.begin(await entry.identify(served.metadata))
            await answer(served, principal, raw, context)

    async def unknown(_: object, context: Context) -> None:
        async with _Call(entry.method, context) as served:
            principal = served.begin(await entry.identify(served.metadata))
            await answer(served, principal, await entry.receive(principal, context), context)

    return known, unknown


def _stream_stream(
    entry: _Entry, behaviour: Callable[..., AsyncGenerator[Any, None]]
) -> Callable[..., Awaitable[None]]:
    """Many requests and many answers."""

    async def call(sent: AsyncIterator[bytes], context: Context) -> None:
        async with _Call(entry.method, context) as served:

            async def admitted() -> Principal:
                return await entry.gate.admit(entry.rule, served.metadata, None)

            principal = served.begin(await entry.identify(served.metadata))
            await admitted()
            with entry.lane(principal), acting_as(principal):
                taken = _Guarded(sent, entry.read, admitted)
                async with aclosing(behaviour(taken, context)) as responses:
                    async for response in responses:
                        await admitted()
                        await context.write(response)

    return call


class _Guarded:
    """The requests of a stream; before each one its caller is authenticated again."""

    __slots__ = ("_admitted", "_read", "_requests")

    def __init__(
        self,
        requests: AsyncIterator[bytes],
        read: Callable[[bytes], Awaitable[Any]],
        admitted: Callable[[], Awaitable[object]],
    ) -> None:
        # Not asked for an iterator before its first use: the library warns of one that is never used.
        self._requests = requests
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

    __slots__ = ("_context", "_method", "_span", "_started", "_token", "metadata")

    def __init__(self, method: str, context: Context) -> None:
        self._method = method
        self._context = context
        self._span: Any = None

    async def __aenter__(self) -> Self:
        self._started = time.perf_counter()
        self.metadata: Metadata = self._context.invocation_metadata() or ()
        self._token = time_left.set(self._time_left)
        return self

    def begin(self, principal: Principal) -> Principal:
        """It is known who calls: the call gets its span. Whether it is sampled is for callers that were
        proven to say; what a stranger says of its trace is not taken."""
        carrier: dict[str, Any] = {}
        if principal is not STRANGER:
            carrier = {key: value for key, value in self.metadata if key in _TRACE_HEADERS}
        self._span = tracer().start_as_current_span(
            self._method,
            context=propagation.extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": self._method},
            record_exception=False,
            set_status_on_exception=False,
        )
        self._span.__enter__()
        return principal

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
        if self._span is not None:
            span = trace.get_current_span()
            if span.is_recording():
                span.set_attribute("rpc.response.status_code", code)
                if status is not None:
                    span.set_status(trace.Status(trace.StatusCode.ERROR, status.message))
            self._span.__exit__(None, None, None)
        metrics.RPC_SECONDS.labels(self._method, code).observe(time.perf_counter() - self._started)
        if status is not None:
            await abort(self._context, status)
