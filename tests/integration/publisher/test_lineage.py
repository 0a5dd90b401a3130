"""Traces: the trace of a capture call contains a span of its invoice, and the invoice links back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from meterline_protos.common.v1 import types_pb2
from meterline_publisher.explain import lineage
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.integration.publisher.world import START, Api, World
from tests.support.fake_mesh import Event
from tests.support.polling import eventually

pytestmark = pytest.mark.req("K4", "X1")


def capture_of(number: int, *, sampled: bool = True) -> types_pb2.TraceContext:
    return types_pb2.TraceContext(trace_id=f"{number:032x}", span_id=f"{number:016x}", sampled=sampled)


async def invoice_span(spans: InMemorySpanExporter) -> ReadableSpan:
    """Waits for the span of the invoice, which ends after the spans that it adds to other traces."""
    return (await eventually(lambda: _named(spans, "invoice")))[0]


def _named(spans: InMemorySpanExporter, name: str) -> Sequence[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def _trace(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


async def test_rated_window_appears_in_its_capture_traces(
    world: World, api: Api, spans: InMemorySpanExporter
) -> None:
    await world.tenant()
    await world.capture("acme", Event(START, value="1"), Event(START, value="1"), trace=capture_of(1))
    await world.capture("acme", Event(START + timedelta(days=3), value="1"), trace=capture_of(2))
    await world.capture("acme", Event(START, value="1"), trace=capture_of(3, sampled=False))
    await world.capture("acme", Event(START, value="1"))
    invoice = (await api.publish("acme")).invoice
    summary = await invoice_span(spans)
    marks = _named(spans, "invoice calls")
    assert sorted(_trace(mark) for mark in marks) == [1, 2]
    for mark in marks:
        assert mark.parent is not None
        assert mark.parent.span_id == _trace(mark)
        assert mark.attributes is not None
        assert mark.attributes["meterline.invoice_id"] == invoice.invoice_id
        assert mark.attributes["meterline.tenant_id"] == "acme"
        assert mark.attributes["meterline.batch_id"] in world.mesh.tenants["acme"].batches
        assert [f"{link.context.trace_id:032x}" for link in mark.links] == [invoice.trace.trace_id]
    assert f"{_trace(summary):032x}" == invoice.trace.trace_id
    assert sorted(link.context.trace_id for link in summary.links) == [1, 2]


async def test_second_rating_marks_only_new_traces(
    world: World, api: Api, spans: InMemorySpanExporter
) -> None:
    await world.tenant()
    await world.capture("acme", Event(START, value="1"), trace=capture_of(1))
    await api.publish("acme")
    await invoice_span(spans)
    await world.capture("acme", Event(START, value="1"), trace=capture_of(2))
    await api.publish("acme")
    await eventually(lambda: len(_named(spans, "invoice")) == 2)
    assert sorted(_trace(mark) for mark in _named(spans, "invoice calls")) == [1, 2]


async def test_only_newest_batches_are_marked_in_traces(
    world: World, api: Api, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "MAX_LINKS", 3)
    await world.tenant()
    for number in range(1, 8):
        at = START + timedelta(hours=number if number % 2 else 24 * number)
        await world.capture("acme", Event(at, value="1"), trace=capture_of(number))
    await api.publish("acme")
    summary = await invoice_span(spans)
    assert len(summary.links) == 3
    assert len(_named(spans, "invoice calls")) == 3


async def test_failed_lineage_does_not_affect_rating(
    world: World, api: Api, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("planted")

    await world.tenant()
    await world.capture("acme", Event(START, value="1"), trace=capture_of(1))
    with monkeypatch.context() as patch:
        patch.setattr(lineage.Lineage, "_newest_batches", broken)
        assert (await api.publish("acme")).invoice.total == "0.01"
    await world.capture("acme", Event(START, value="1"), trace=capture_of(2))
    await api.publish("acme")
    await invoice_span(spans)
