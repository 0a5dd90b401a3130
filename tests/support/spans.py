"""Finished spans in memory. A process has one tracer provider, set once and emptied for each test."""

from __future__ import annotations

from functools import cache

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@cache
def exporter() -> InMemorySpanExporter:
    """The process's exporter; from the first call on, calls are traced."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """`spans.get_finished_spans()`: the spans that ended since the test began."""
    exported = exporter()
    exported.clear()
    return exported
