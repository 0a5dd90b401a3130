"""Trace contexts as text."""

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
def test_a_trace_survives_its_text(trace: types_pb2.TraceContext) -> None:
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
def test_a_malformed_trace_is_no_trace(trace_id: str, span_id: str) -> None:
    """A row cannot hold NUL, and dashes are what the text is taken apart at."""
    assert traceparent.to_text(types_pb2.TraceContext(trace_id=trace_id, span_id=span_id)) == ""
    assert traceparent.to_proto(f"00-{trace_id}-{span_id}-01") == NO_TRACE


@pytest.mark.parametrize("flags", ["", "1", "02", "ff", "01-x", "01\n"])
def test_text_that_no_row_holds_is_no_trace(flags: str) -> None:
    assert traceparent.to_proto(f"00-{'1' * 32}-{'2' * 16}-{flags}") == NO_TRACE


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"))
def test_any_text_can_be_read(text: str) -> None:
    """A row never fails to be read because of its trace, and what is read is what was written, or nothing."""
    assert traceparent.to_text(traceparent.to_proto(text)) in ("", text)


@given(st.text(), st.text())
def test_any_message_names_a_span_or_none(trace_id: str, span_id: str) -> None:
    span = propagation.to_span_context(types_pb2.TraceContext(trace_id=trace_id, span_id=span_id))
    assert span is None or span.is_valid


def test_outside_of_a_span_there_is_no_current_trace() -> None:
    assert traceparent.current() == ""


def test_the_current_trace_is_that_of_the_running_span() -> None:
    span = SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    token = attach(propagation.context_of(span))
    try:
        assert traceparent.current() == f"00-{5:032x}-{6:016x}-01"
    finally:
        detach(token)
