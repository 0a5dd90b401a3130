"""Span ids and the sampling flag round-trip through headers and through stored messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.telemetry import propagation
from meterline_protos.common.v1 import types_pb2
from opentelemetry import trace
from opentelemetry.trace import SpanContext, TraceFlags

pytestmark = pytest.mark.req("K4")

SPANS = st.builds(
    SpanContext,
    trace_id=st.integers(1, 2**128 - 1),
    span_id=st.integers(1, 2**64 - 1),
    is_remote=st.just(True),
    trace_flags=st.sampled_from([TraceFlags(0), TraceFlags(TraceFlags.SAMPLED)]),
)


@given(SPANS)
def test_span_round_trips_through_headers(span: SpanContext) -> None:
    carrier: dict[str, str] = {}
    propagation.inject_into(carrier, propagation.context_of(span))
    found = trace.get_current_span(propagation.extract(carrier)).get_span_context()
    assert (found.trace_id, found.span_id, found.trace_flags) == (
        span.trace_id,
        span.span_id,
        span.trace_flags,
    )


@given(SPANS)
def test_span_round_trips_through_storage(span: SpanContext) -> None:
    stored = propagation.to_proto(span).SerializeToString()
    assert propagation.to_span_context(types_pb2.TraceContext.FromString(stored)) == span


def test_missing_span_has_no_context() -> None:
    assert propagation.inject({}) == {}
    assert propagation.current_trace() == types_pb2.TraceContext()
    assert propagation.to_span_context(types_pb2.TraceContext()) is None


@given(st.dictionaries(st.sampled_from(["traceparent", "tracestate"]), st.text()))
def test_malformed_headers_are_ignored(carrier: dict[str, str]) -> None:
    span = trace.get_current_span(propagation.extract(carrier)).get_span_context()
    assert isinstance(span, SpanContext)
