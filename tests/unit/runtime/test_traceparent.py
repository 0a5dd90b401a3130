"""Trace contexts as traceparent text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.telemetry import propagation, traceparent
from meterline_protos.common.v1 import types_pb2
from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanContext, TraceFlags

pytestmark = pytest.mark.req("K4")

NO_TRACE = types_pb2.TraceContext()
TRACES = st.builds(
    lambda trace_id, span_id, sampled: types_pb2.TraceContext(
        trace_id=f"{trace_id:032x}", span_id=f"{span_id:016x}", sampled=sampled
    ),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
)


@given(TRACES)
def test_trace_round_trips_through_text(trace: types_pb2.TraceContext) -> None:
    assert traceparent.to_text(trace) == f"00-{trace.trace_id}-{trace.span_id}-0{int(trace.sampled)}"
    assert traceparent.to_proto(traceparent.to_text(trace)) == trace


@pytest.mark.parametrize(
    ("trace_id", "span_id"),
    [
        ("", ""),
        ("0" * 31, "1" * 16),
        ("1" * 32, ""),
        ("\0" * 32, "1" * 16),
        ("1" * 32, "-" * 16),
        ("A" * 32, "1" * 16),
        ("1" * 32 + "\n", "1" * 16),
        ("\N{ARABIC-INDIC DIGIT ONE}" * 32, "1" * 16),
        ("0" * 32, "1" * 16),
        ("1" * 32, "0" * 16),
    ],
)
def test_malformed_trace_becomes_no_trace(trace_id: str, span_id: str) -> None:
    """Includes NUL, which a row cannot hold, and dashes, which separate the parts."""
    assert traceparent.to_text(types_pb2.TraceContext(trace_id=trace_id, span_id=span_id)) == ""
    assert traceparent.to_proto(f"00-{trace_id}-{span_id}-01") == NO_TRACE


@pytest.mark.parametrize("flags", ["", "1", "02", "ff", "01-x", "01\n"])
def test_malformed_text_becomes_no_trace(flags: str) -> None:
    assert traceparent.to_proto(f"00-{'1' * 32}-{'2' * 16}-{flags}") == NO_TRACE


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"))
def test_any_text_is_parsed_without_error(text: str) -> None:
    """A row with a malformed trace stays readable: the trace is either unchanged or empty."""
    assert traceparent.to_text(traceparent.to_proto(text)) in ("", text)


@given(st.text(), st.text())
def test_any_proto_context_gives_a_valid_span_or_none(trace_id: str, span_id: str) -> None:
    span = propagation.to_span_context(types_pb2.TraceContext(trace_id=trace_id, span_id=span_id))
    assert span is None or span.is_valid


def test_no_current_trace_outside_a_span() -> None:
    assert traceparent.current() == ""


def test_current_trace_is_that_of_the_active_span() -> None:
    span = SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    token = attach(propagation.context_of(span))
    try:
        assert traceparent.current() == f"00-{5:032x}-{6:016x}-01"
    finally:
        detach(token)
