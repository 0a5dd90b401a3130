"""Trace context across calls, outbox rows, message headers and stored windows (W3C trace context)."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from meterline_protos.common.v1 import types_pb2
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


def inject(carrier: dict[str, str]) -> dict[str, str]:
    """Adds the current trace context, sampling flag included, and returns `carrier`."""
    _propagator.inject(carrier)
    return carrier


def extract(carrier: Mapping[str, str]) -> Context:
    """The context that `inject` wrote; an empty one when there is none."""
    return _propagator.extract(carrier, context=Context())


def inject_into(carrier: MutableMapping[str, str], context: Context) -> None:
    _propagator.inject(carrier, context=context)


def current_trace() -> types_pb2.TraceContext:
    """The current span's ids; they exist whether or not the span is recorded."""
    return to_proto(trace.get_current_span().get_span_context())


def to_proto(span: SpanContext) -> types_pb2.TraceContext:
    if not span.is_valid:
        return types_pb2.TraceContext()
    return types_pb2.TraceContext(
        trace_id=f"{span.trace_id:032x}",
        span_id=f"{span.span_id:016x}",
        sampled=span.trace_flags.sampled,
    )


def to_span_context(message: types_pb2.TraceContext) -> SpanContext | None:
    """The remote span that `message` names; None when it names none, or its ids are malformed."""
    try:
        span = SpanContext(
            trace_id=int(message.trace_id, 16),
            span_id=int(message.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED if message.sampled else 0),
        )
    except ValueError:
        return None
    return span if span.is_valid else None


def context_of(span: SpanContext | None) -> Context:
    """A context in which `span` is the parent of what is started."""
    return trace.set_span_in_context(NonRecordingSpan(span), Context()) if span else Context()
