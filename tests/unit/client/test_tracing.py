"""Trace context reaches the server: a batch of one trace continues it, a batch of several links them."""

import pytest
from meterline_client.batches import MAX_TRACES, Batch, cut
from meterline_client.otel import OpenTelemetry
from meterline_client.recording import Recorder
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.client import ManualClock


class Traced:
    """An application with its own tracer, and the client's tracing within it."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("application")
        self.tracing = OpenTelemetry("Report", provider)
        self.recorder = Recorder("acme", ManualClock(), self.tracing.current)

    def batch(self, spans: int) -> tuple[Batch, list[int]]:
        """Two events in each of several traces, and the trace ids."""
        rows, ids = [], []
        for _ in range(spans):
            with self.tracer.start_as_current_span("work") as span:
                ids.append(span.get_span_context().trace_id)
                rows += [
                    self.recorder.row("api.called", "s", None, None, None, None, None)[1] for _ in range(2)
                ]
        rows.append(self.recorder.row("api.called", "s", None, None, None, None, None)[1])
        self.exporter.clear()
        [batch] = cut(rows, "gw/1")
        return batch, ids


@pytest.mark.req("K4")
def test_batch_of_one_trace_continues_it() -> None:
    traced = Traced()
    batch, [trace_id] = traced.batch(1)

    call = traced.tracing.start(batch, 1)
    call.end("OK", "")

    [span] = traced.exporter.get_finished_spans()
    assert span.context is not None
    assert span.context.trace_id == trace_id
    assert span.parent is not None
    assert not span.links
    assert dict(call.metadata)["traceparent"].startswith(f"00-{trace_id:032x}-{span.context.span_id:016x}-")
    assert span.attributes is not None
    assert dict(span.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": "Report",
        "meterline.events": 3,
        "rpc.response.status_code": "OK",
    }


@pytest.mark.req("K4")
def test_batch_of_many_traces_links_a_limited_number() -> None:
    traced = Traced()
    batch, ids = traced.batch(50)

    call = traced.tracing.start(batch, 3)
    call.end("UNAVAILABLE", "connection refused")

    [span] = traced.exporter.get_finished_spans()
    assert span.parent is None
    assert [link.context.trace_id for link in span.links] == ids[:MAX_TRACES]
    assert span.context is not None
    assert span.context.trace_id not in ids
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["meterline.attempt"] == 3


@pytest.mark.req("K4")
def test_context_is_propagated_without_the_opentelemetry_sdk() -> None:
    tracing = OpenTelemetry("Report", trace.NoOpTracerProvider())
    parent = trace.SpanContext(5, 6, is_remote=True, trace_flags=trace.TraceFlags(1))

    continued = tracing.start(Batch(b"", 1, (parent,)), 1)
    alone = tracing.start(Batch(b"", 1), 1)

    assert dict(continued.metadata) == {"traceparent": f"00-{5:032x}-{6:016x}-01"}
    assert alone.metadata == ()
    continued.end("OK", "")


@pytest.mark.req("K4")
def test_event_outside_a_trace_has_no_context() -> None:
    assert OpenTelemetry("Report").current() is None


@pytest.mark.req("K4")
def test_several_spans_of_one_trace_continue_it() -> None:
    traced = Traced()
    with traced.tracer.start_as_current_span("request") as request:
        batch, _ = traced.batch(3)

    call = traced.tracing.start(batch, 1)
    call.end("OK", "")

    span = traced.exporter.get_finished_spans()[-1]
    assert span.context is not None
    assert span.context.trace_id == request.get_span_context().trace_id
    assert len(span.links) == 3, "one of the four spans is the parent"
