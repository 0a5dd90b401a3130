"""Calls share a transaction, but a fault of one call does not affect the others."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from meterline_dev.servers import NatsServer
from meterline_ingest.capture.rules import combinations
from meterline_protos.ingest.v1 import capture_pb2, event_types_pb2

from tests.support.calls import status_of
from tests.support.capture import RunningIngest, Sample, columns, now_us, rows, running_ingest
from tests.support.credentials import refusal
from tests.support.databases import TestDatabase
from tests.support.quarantine import BY_ANN, QuarantineApi

pytestmark = pytest.mark.req("T4.2", "T8.3")

REPORT = "/meterline.ingest.v1.CaptureService/Report"
ENRICHED = event_types_pb2.EventType(
    name="enriched",
    dimensions=[event_types_pb2.DimensionDefinition(name=name) for name in ("sku", "family")],
    properties=[event_types_pb2.PropertyDefinition(name="price", kind=event_types_pb2.PROPERTY_KIND_DECIMAL)],
    enrichments=[
        event_types_pb2.Enrichment(
            namespace="products",
            key="sku",
            attributes=[event_types_pb2.EnrichedAttribute(attribute="family")],
            when_missing=event_types_pb2.MISSING_ENTRY_QUARANTINE,
        )
    ],
)


def of_type(**changes: object) -> Sample:
    return Sample(**({"type": "enriched", "dimensions": {}, "quantities": {}} | changes))  # type: ignore[arg-type]


def with_entry(field: bytes, entry: bytes) -> bytes:
    """A call with an event whose map has an entry of these bytes."""
    event = Sample(dimensions={}, quantities={}).to_row().SerializeToString()
    event += field + bytes([len(entry)]) + entry
    batch = b"\x0a" + bytes([len(event)]) + event
    return b"\x0a\x04acme\x12\x04test\x22" + bytes([len(batch)]) + batch


def timed(time_us: int, sent_at_us: int | None = None) -> bytes:
    request = columns(Sample(time_us=0))
    request.columns.times_us = struct.pack("<q", time_us)
    if sent_at_us is not None:
        request.sent_at.FromMicroseconds(sent_at_us)
    return request.SerializeToString()


def hostile() -> dict[str, tuple[bytes, str]]:
    """Calls that once made other calls fail: (request, expected reason) by name."""
    calls: dict[str, tuple[bytes, str]] = {}
    for text, reason in (("1e1000000", "QUANTITY_OUT_OF_RANGE"), ("1e-1000030", "QUANTITY_TOO_PRECISE")):
        calls[text] = rows(Sample(quantities={"units": text})).SerializeToString(), reason
    price = of_type(properties={"price": "1e1000000"})
    calls["property"] = rows(price).SerializeToString(), "PROPERTY_WRONG_KIND"
    calls["NUL in an id like a UUID"] = rows(Sample(id="\0" * 36)).SerializeToString(), "TEXT_INVALID"
    for name, field in (("dimensions", b"\x32"), ("quantities", b"\x3a"), ("properties", b"\x42")):
        calls[f"short entry of {name}"] = with_entry(field, b"\x0a\x01a\x12"), "TEXT_INVALID"
    calls["key with NUL"] = rows(of_type(dimensions={"sku": "a\0"})).SerializeToString(), "TEXT_INVALID"
    long_key = of_type(dimensions={"sku": "k" * 300})
    calls["long key"] = rows(long_key).SerializeToString(), "CATALOGUE_ENTRY_MISSING"
    for time_us in (-1, -(1 << 62), -(1 << 63), (1 << 63) - 1, 300_000_000_000_000_000):
        calls[f"time {time_us}"] = timed(time_us), "TIME_OUT_OF_RANGE"
        calls[f"time {time_us}, skewed"] = timed(time_us, now_us() - 60_000_000), "TIME_OUT_OF_RANGE"
    nanos = rows(Sample())
    nanos.rows.events[0].time.nanos = 2_000_000_000
    calls["nanos"] = nanos.SerializeToString(), "TIME_OUT_OF_RANGE"
    return calls


async def innocent_calls(ingest: RunningIngest, until: asyncio.Event) -> int:
    """Reports valid events in concurrent calls until the event is set; returns their number."""
    sent = 0
    while not until.is_set():
        answers = await asyncio.gather(*(ingest.report(rows(Sample())) for _ in range(10)))
        assert [(each.accepted, each.rejected) for each in answers] == [(1, 0)] * len(answers)
        sent += len(answers)
    return sent


async def test_hostile_call_is_rejected_and_other_calls_succeed(ingest: RunningIngest) -> None:
    await ingest.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=ENRICHED))
    done = asyncio.Event()
    others = asyncio.create_task(innocent_calls(ingest, done))
    report: Any = ingest.channel.unary_unary(REPORT)
    try:
        for name, (call, reason) in hostile().items():
            answers = await asyncio.gather(*(report(call, timeout=20) for _ in range(5)))
            for answer in map(capture_pb2.ReportResponse.FromString, answers):
                assert [each.reason for each in answer.outcomes] == [reason], name
    finally:
        done.set()
        sent = await others
    assert sent > 0


async def test_unexpected_fault_fails_only_its_call_and_quarantines_it(
    ingest: RunningIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a release with a fix, a replay accepts the quarantined events, each once."""
    quarantine = QuarantineApi(ingest.channel)
    plant_fault(monkeypatch)
    done = asyncio.Event()
    others = asyncio.create_task(innocent_calls(ingest, done))
    culprits = [Sample(dimensions={"region": "cursed"}) for _ in range(3)]
    with pytest.raises(aio.AioRpcError) as caught:
        await ingest.report(rows(*culprits))
    # The retry fails too, and adds no second entry.
    with pytest.raises(aio.AioRpcError):
        await ingest.report(rows(*culprits))
    done.set()
    assert await others > 0
    assert refusal(caught.value) == (grpc.StatusCode.INTERNAL, "INTERNAL_FAULT")
    assert "cursed" not in str(status_of(caught.value))
    kept = await quarantine.entries()
    assert [(each.reason, each.attempts) for each in kept] == [("INTERNAL_FAULT", 2)] * 3

    monkeypatch.undo()
    # The client's retry of one event comes first; the replay of its entry is then a duplicate.
    assert (await ingest.report(rows(culprits[0]))).accepted == 1
    answer = await quarantine.replay(**BY_ANN)
    assert (answer.accepted, answer.duplicate) == (2, 1)
    assert (await ingest.report(rows(*culprits))).duplicate == 3


def plant_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes validation fail for one value of a dimension."""
    validate = combinations._dimension_problem

    def failing(dimensions: Sequence[tuple[str, str]], *rest: Any) -> Any:
        if ("region", "cursed") in dimensions:
            raise ArithmeticError("cursed")
        return validate(dimensions, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(combinations, "_dimension_problem", failing)


async def test_columns_with_unexpected_fault_are_quarantined_too(
    ingest: RunningIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_fault(monkeypatch)
    good, bad = Sample(), Sample(dimensions={"region": "cursed"})
    with pytest.raises(aio.AioRpcError):
        await ingest.report(columns(good, bad))
    kept = await QuarantineApi(ingest.channel).entries()
    assert {each.event_id for each in kept} == {good.id, bad.id}


@pytest.mark.req("T2.4")
async def test_overload_is_refused_at_once_with_retry_delay(
    database: TestDatabase, broker: NatsServer
) -> None:
    async with running_ingest(database, broker, max_queued_events=10) as ingest:
        with pytest.raises(aio.AioRpcError) as caught:
            await ingest.report(rows(*(Sample() for _ in range(11))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.nanos > 0
