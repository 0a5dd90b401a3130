"""Trace contexts as text: one W3C traceparent, or the empty string."""

from __future__ import annotations

import re
from typing import Final

from meterline_protos.common.v1 import types_pb2

_TRACE_ID: Final = re.compile("[0-9a-f]{32}")
_SPAN_ID: Final = re.compile("[0-9a-f]{16}")


def to_text(context: types_pb2.TraceContext) -> str:
    """The W3C form of a trace context; empty when there is none, or what there is has not that form."""
    if not (_TRACE_ID.fullmatch(context.trace_id) and _SPAN_ID.fullmatch(context.span_id)):
        return ""
    return f"00-{context.trace_id}-{context.span_id}-{'01' if context.sampled else '00'}"


def to_proto(text: str) -> types_pb2.TraceContext:
    """What `to_text` wrote."""
    if not text:
        return types_pb2.TraceContext()
    _, trace_id, span_id, flags = text.split("-")
    return types_pb2.TraceContext(trace_id=trace_id, span_id=span_id, sampled=flags == "01")
