"""Trace contexts as rows keep them: one W3C traceparent, or the empty string.

A malformed trace is treated as none, in both directions: it neither loses a fact nor makes a row unreadable.
"""

from __future__ import annotations

import re
from typing import Final

from meterline_protos.common.v1 import types_pb2

from meterline.telemetry import propagation

_PARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-(0[01])")


def to_text(context: types_pb2.TraceContext) -> str:
    """The W3C form of a trace context; empty when there is none, or its ids are not those of the standard."""
    text = f"00-{context.trace_id}-{context.span_id}-{'01' if context.sampled else '00'}"
    return text if _PARENT.fullmatch(text) else ""


def to_proto(text: str) -> types_pb2.TraceContext:
    """What `to_text` wrote; an empty context for any other text."""
    match = _PARENT.fullmatch(text)
    if match is None:
        return types_pb2.TraceContext()
    return types_pb2.TraceContext(trace_id=match[1], span_id=match[2], sampled=match[3] == "01")


def current() -> str:
    """The span that is running; empty outside of any."""
    return to_text(propagation.current_trace())
