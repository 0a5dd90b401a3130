"""Trace contexts as text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.telemetry import traceparent
from meterline_protos.common.v1 import types_pb2


@pytest.mark.req("K4")
@given(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.booleans())
@settings(deadline=None)
def test_a_trace_survives_its_text(trace_id: bytes, span_id: bytes, sampled: bool) -> None:
    given_ = types_pb2.TraceContext(trace_id=trace_id.hex(), span_id=span_id.hex(), sampled=sampled)
    assert traceparent.to_proto(traceparent.to_text(given_)) == given_


@pytest.mark.req("K4")
def test_what_has_not_the_form_of_a_trace_is_none() -> None:
    """A row cannot hold NUL, and dashes are what the text is taken apart at."""
    wrong = (
        ("", ""),
        ("0" * 31, "1" * 16),
        ("1" * 32, ""),
        ("\0" * 32, "1" * 16),
        ("1" * 32, "-" * 16),
        ("A" * 32, "1" * 16),
        ("\N{ARABIC-INDIC DIGIT ONE}" * 32, "1" * 16),
    )
    for trace_id, span_id in wrong:
        assert traceparent.to_text(types_pb2.TraceContext(trace_id=trace_id, span_id=span_id)) == ""
    assert traceparent.to_proto("") == types_pb2.TraceContext()
