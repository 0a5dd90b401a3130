"""Trace contexts as rows keep them: one W3C traceparent, or the empty string."""

from __future__ import annotations

import re

from meterline.telemetry import propagation
from meterline_protos.common.v1 import types_pb2

_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])")


def to_text(trace: types_pb2.TraceContext) -> str:
    """Empty when the ids are not what the standard wants: a bad trace never costs a fact."""
    text = f"00-{trace.trace_id}-{trace.span_id}-{int(trace.sampled):02d}"
    return text if _PARENT.fullmatch(text) else ""


def to_proto(text: str) -> types_pb2.TraceContext:
    match = _PARENT.fullmatch(text)
    if match is None:
        return types_pb2.TraceContext()
    return types_pb2.TraceContext(trace_id=match[1], span_id=match[2], sampled=match[3] == "01")


def current() -> str:
    """The span that is running."""
    return to_text(propagation.current_trace())
