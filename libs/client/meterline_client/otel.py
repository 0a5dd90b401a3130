"""Tracing with OpenTelemetry's API. Imported only where that is installed."""

from __future__ import annotations

from typing import cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from meterline_client.batches import Batch

_propagator = TraceContextTextMapPropagator()


class OpenTelemetry:
    """Spans of calls. `provider` is the application's global one unless another is given."""

    def __init__(self, method: str, provider: trace.TracerProvider | None = None) -> None:
        self._method = method
        self._tracer = trace.get_tracer("meterline_client", tracer_provider=provider)

    def current(self) -> SpanContext | None:
        """The span in which an event is recorded."""
        span = trace.get_current_span()
        if span is trace.INVALID_SPAN:
            return None
        context = span.get_span_context()
        return context if context.is_valid else None

    def start(self, batch: Batch, attempt: int) -> OpenTelemetryCall:
        traces = cast("tuple[SpanContext, ...]", batch.traces)
        context, linked = Context(), list(traces)
        if len({one.trace_id for one in traces}) == 1:
            context = trace.set_span_in_context(NonRecordingSpan(linked.pop(0)), context)
        attributes: dict[str, str | int] = {
            "rpc.system.name": "grpc",
            "rpc.method": self._method,
            "meterline.events": batch.count,
        }
        if attempt > 1:
            attributes["meterline.attempt"] = attempt
        span = self._tracer.start_span(
            self._method,
            context,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            links=[Link(one) for one in linked],
        )
        return OpenTelemetryCall(span)


class OpenTelemetryCall:
    """One attempt: its span, and the headers that make the server continue it."""

    def __init__(self, span: Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(span, Context()))
        self.metadata = tuple(carrier.items())

    def end(self, code: str, error: str) -> None:
        self._span.set_attribute("rpc.response.status_code", code)
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()
