"""Trace context, when the application has OpenTelemetry.

A call whose events were all recorded in one trace continues it; otherwise it is a trace of its own, linked to
theirs.
"""

from __future__ import annotations

from typing import Protocol

from meterline_client.batches import Batch

_METHOD = "meterline.ingest.v1.CaptureService/Report"


class CallTrace(Protocol):
    """One attempt, being traced."""

    metadata: tuple[tuple[str, str], ...]

    def end(self, code: str, error: str) -> None:
        """`error` is empty when the call succeeded."""
        ...


class Tracing(Protocol):
    """What the client needs of a tracer."""

    def current(self) -> object:
        """The caller's trace; None when there is none."""
        ...

    def start(self, batch: Batch, attempt: int) -> CallTrace: ...


class NoCallTrace:
    """Stands in where nothing is traced."""

    metadata: tuple[tuple[str, str], ...] = ()

    def end(self, code: str, error: str) -> None:
        return


def find_tracing() -> Tracing | None:
    """None when the application has no OpenTelemetry."""
    try:
        from meterline_client.otel import OpenTelemetry
    except ImportError:
        return None
    return OpenTelemetry(_METHOD)
