"""Decoding accepts messages that keep to their schema, and refuses all others."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.decimals import to_text
from meterline_aggregate.folding.decoding import GarbledError, decode
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2

from tests.support.aggregate import Event, accepted

pytestmark = pytest.mark.req("T3.1")

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
TRACE = types_pb2.TraceContext(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331")


def sample() -> events_pb2.EventsAccepted:
    return accepted(
        [Event(1, NOON, dimensions={"origin": "JFK"}, quantities={"miles": "1.5"}), Event(2, NOON)],
        [Event(1, NOON, subject="", quantities={"miles": "-2"})],
        trace=TRACE,
    )


def test_columns_equal_the_sent_values() -> None:
    found = decode(sample().SerializeToString())
    assert [batch.rows for batch in found.batches] == [2, 1]
    assert found.batches[0].traceparent == f"00-{TRACE.trace_id}-{TRACE.span_id}-00"
    assert found.times_us.tolist() == [1_794_744_000_000_000] * 3
    assert [found.fact.subjects[at] for at in found.subject_index] == ["N12345", "N12345", ""]
    assert [found.fact.series[at].tenant_id for at in found.series_index] == [1, 2, 1]
    miles = found.quantities["miles"]
    assert miles.scale == 3
    assert miles.units.tolist() == [1500, 0, -2000]
    assert miles.present is not None
    assert miles.present.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "other",
    [
        events_pb2.EventsAccepted(),
        events_pb2.TenantChanged(tenant_id=7, version=3, active=True, close_lead_seconds=600),
        events_pb2.TenantChanged(tenant_id=7, slug="acme", time_zone="UTC", currency="USD"),
        events_pb2.UsageWindowsChanged(windows=[events_pb2.UsageWindow(tenant_id=7, meter="m", revision=1)]),
        events_pb2.InvoiceChanged(),
    ],
    ids=lambda other: type(other).__name__,
)
def test_message_of_another_type_is_not_decoded_as_empty(other: Message) -> None:
    with pytest.raises(GarbledError):
        decode(other.SerializeToString())


@given(st.lists(st.lists(st.uuids(), min_size=1, max_size=4, unique=True), unique_by=tuple, max_size=6))
def test_only_copies_of_a_message_share_its_key(batches: list[list[uuid.UUID]]) -> None:
    def key(batch_ids: list[uuid.UUID]) -> bytes:
        empty: list[list[Event]] = [[] for _ in batch_ids]
        return decode(accepted(*empty, batch_ids=batch_ids).SerializeToString()).key

    keys = [key(one) for one in batches]
    assert keys == [key(one) for one in batches]
    assert len(set(keys)) == len(batches)
    assert all(own[:8] == one[0].bytes[:8] for own, one in zip(keys, batches, strict=True))


@pytest.mark.req("T3.4")
def test_first_rows_of_a_batch_may_be_retractions() -> None:
    assert decode(sample().SerializeToString()).retracted is None
    fact = sample()
    fact.batches[0].retracted = 1
    fact.batches[1].retracted = 1
    fact.batches[1].origins = b"o" * 16
    found = decode(fact.SerializeToString())
    assert found.retracted is not None
    assert found.retracted.tolist() == [True, False, True]
    assert found.origins == [b"", b"o" * 16]


def _cut(name: str) -> Callable[[events_pb2.EventsAccepted], None]:
    def change(fact: events_pb2.EventsAccepted) -> None:
        setattr(fact, name, getattr(fact, name)[:-1])

    return change


def _set(name: str, data: bytes) -> Callable[[events_pb2.EventsAccepted], None]:
    return lambda fact: setattr(fact, name, data)


BREAKS: list[tuple[str, Callable[[events_pb2.EventsAccepted], object]]] = [
    ("event_ids is not of 16 bytes a row", _cut("event_ids")),
    ("series_index is not of 3 rows", _cut("series_index")),
    ("subject_index is not of 3 rows", _cut("subject_index")),
    ("times_us is not of 3 rows", _cut("times_us")),
    ("series_index points beyond its dictionary", _set("series_index", struct.pack("<III", 0, 3, 0))),
    ("subject_index points beyond its dictionary", _set("subject_index", struct.pack("<III", 0, 2, 0))),
    ("a time is out of range", _set("times_us", struct.pack("<qqq", 0, -1, 0))),
    ("a time is out of range", _set("times_us", struct.pack("<qqq", 0, 2**63 - 1, 0))),
    ("batches do not cover the rows", lambda fact: fact.batches.pop()),
    ("batches do not cover the rows", lambda fact: setattr(fact.batches[0], "rows", 2**32 - 1)),
    ("a batch occurs twice", lambda fact: setattr(fact.batches[1], "batch_id", fact.batches[0].batch_id)),
    ("a batch_id is not of 16 bytes", lambda fact: setattr(fact.batches[0], "batch_id", b"short")),
    ("a series has no tenant", lambda fact: setattr(fact.series[0], "tenant_id", 0)),
    ("a series has no tenant", lambda fact: setattr(fact.series[0], "tenant_id", -1)),
    ("quantity miles: scale above 18", lambda fact: setattr(fact.quantities[0], "scale", 19)),
    ("quantity miles is not of 3 rows", lambda fact: setattr(fact.quantities[0], "units", b"")),
    ("presence of miles is not of 3 rows", lambda fact: setattr(fact.quantities[0], "present", b"\1")),
    ("a batch retracts more rows than it has", lambda fact: setattr(fact.batches[1], "retracted", 2)),
    ("a batch retracts more rows than it has", lambda fact: setattr(fact.batches[0], "retracted", 2**32 - 1)),
    (
        "origins is not of 16 bytes a retracted row",
        lambda fact: setattr(fact.batches[0], "origins", b"0" * 16),
    ),
    (
        "origins is not of 16 bytes a retracted row",
        lambda fact: fact.batches[0].MergeFrom(events_pb2.AcceptedBatch(retracted=2, origins=b"0" * 17)),
    ),
    ("a quantity occurs twice", lambda fact: fact.quantities.append(fact.quantities[0])),
]


@pytest.mark.parametrize(("rule", "change"), BREAKS, ids=[rule for rule, _ in BREAKS])
def test_invalid_message_is_refused_with_the_broken_rule(
    rule: str, change: Callable[[events_pb2.EventsAccepted], object]
) -> None:
    fact = sample()
    change(fact)
    with pytest.raises(GarbledError, match=rule):
        decode(fact.SerializeToString())


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_message_is_refused_or_decoded_consistently(data: st.DataObject) -> None:
    """No index points beyond its dictionary, and decoding raises no other error than the expected one."""
    raw = bytearray(sample().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        found = decode(bytes(raw))
    except GarbledError:
        return
    rows = len(found.times_us)
    assert len(found.series_index) == len(found.subject_index) == rows
    assert all(at < len(found.fact.series) for at in found.series_index)
    assert all(at < len(found.fact.subjects) for at in found.subject_index)
    assert all(len(quantity.units) == rows for quantity in found.quantities.values())


@pytest.mark.parametrize(
    ("value", "text"),
    [("0", "0"), ("0.00", "0"), ("-0.50", "-0.5"), ("1500", "1500"), ("1E+3", "1000"), ("1" * 60, "1" * 60)],
)
def test_decimals_have_one_shortest_form(value: str, text: str) -> None:
    assert to_text(Decimal(value)) == text
