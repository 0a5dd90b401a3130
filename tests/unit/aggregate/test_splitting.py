"""Splitting a message of accepted events into one part for each batch, without a change of content."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.consuming.delivery import Delivery
from meterline.consuming.parts import PART_OF
from meterline.ids import new_id
from meterline.packing import pack_unsigned, unpack_unsigned
from meterline_aggregate.folding.decoding import decode
from meterline_aggregate.folding.splitting import WHOLE_KEY, split
from meterline_protos.events.v1 import events_pb2

from tests.support.aggregate import Event, accepted
from tests.support.facts import decoded

pytestmark = pytest.mark.req("T3.1", "O2")

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

events = st.builds(
    Event,
    st.integers(1, 3),
    st.integers(0, 10**9).map(lambda us: NOON + timedelta(microseconds=us)),
    st.sampled_from(["flight", "other"]),
    st.sampled_from(["", "N1", "N2", "N3"]),
    st.dictionaries(st.sampled_from(["origin", "class"]), st.text(max_size=3), max_size=2),
    st.dictionaries(st.sampled_from(["miles", "seats"]), st.sampled_from(["0", "1.5", "-20"]), max_size=2),
)
batches = st.lists(st.lists(events, max_size=6), min_size=2, max_size=6).filter(any)


def delivered(data: bytes) -> Delivery:
    return Delivery(new_id(), "events.accepted.0", data, {"traceparent": "00-1-2-01"}, "reply", 3, 7.5)


def packed(fact: events_pb2.EventsAccepted) -> events_pb2.EventsAccepted:
    """A message with columns as narrow as those of ingest, and a property column."""
    rows = sum(batch.rows for batch in fact.batches)
    for name in ("series_index", "subject_index"):
        setattr(fact, name, pack_unsigned(unpack_unsigned(getattr(fact, name), rows)))
    index = bytes(row % 3 for row in range(rows))
    fact.properties.add(name="gate", values=["A1", "B2"], index=index)
    return fact


@given(batches)
def test_parts_together_equal_the_whole(given_batches: Sequence[Sequence[Event]]) -> None:
    fact = packed(accepted(*given_batches))
    whole = delivered(fact.SerializeToString())
    parts = split(whole)
    assert len(parts) == len(given_batches)
    headers, entries = decoded(whole.data)
    of_parts = [decoded(part.data) for part in parts]
    assert [header for own, _ in of_parts for header in own] == headers
    assert set().union(*(own for _, own in of_parts)) == entries
    for part, batch in zip(parts, fact.batches, strict=True):
        only = events_pb2.EventsAccepted.FromString(part.data)
        used = unpack_unsigned(only.series_index, batch.rows).tolist()
        assert set(used) == set(range(len(only.series))), "the part has an entry that its batch does not use"
        decode(part.data)


def test_part_has_a_stable_id_and_names_its_whole() -> None:
    whole = delivered(accepted([Event(1, NOON)], [Event(2, NOON)]).SerializeToString())
    parts = split(whole)
    assert parts == split(whole)
    assert len({part.message_id for part in parts} | {whole.message_id}) == 3
    for part in parts:
        assert part.message_id.version == 7
        assert part.message_id.variant == uuid.RFC_4122
        assert part.headers[PART_OF] == str(whole.message_id)
        assert bytes.fromhex(part.headers[WHOLE_KEY]) == decode(whole.data).key
        assert part.headers["traceparent"] == "00-1-2-01"
        assert (part.reply, part.attempt, part.waited) == ("", 3, 7.5)


def test_retractions_stay_with_their_batch() -> None:
    ids = [new_id(), new_id()]
    fact = accepted([Event(1, NOON)], [Event(1, NOON), Event(1, NOON)], batch_ids=ids, origins=[[], [ids[0]]])
    first, second = split(delivered(fact.SerializeToString()))
    assert decode(first.data).retracted is None
    retracting = decode(second.data)
    assert retracting.retracted is not None
    assert retracting.retracted.tolist() == [True, False]
    assert retracting.origins == [ids[0].bytes]


@pytest.mark.parametrize(
    "changes",
    [
        {"event_ids": b"x"},
        {"series_index": b"\0"},
        {"subject_index": b""},
        {"times_us": bytes(7)},
        {"batches": []},
        {"batches": [events_pb2.AcceptedBatch(batch_id=bytes(16), rows=1)] * 2},
        {"batches": [events_pb2.AcceptedBatch(batch_id=bytes(15), rows=2)]},
        {"batches": [events_pb2.AcceptedBatch(batch_id=bytes(16), rows=4_000_000_000)]},
        {"quantities": [events_pb2.QuantityValues(name="q", units=b"x")]},
        {"quantities": [events_pb2.QuantityValues(name="q", units=b"xx", present=b"\1")]},
        {"properties": [events_pb2.PropertyValues(name="p", index=b"x")]},
    ],
)
def test_inconsistent_batches_are_not_split(changes: dict[str, object]) -> None:
    fact = accepted([Event(1, NOON)], [Event(2, NOON)])
    for name in changes:
        fact.ClearField(name)  # type: ignore[arg-type]
    fact.MergeFrom(events_pb2.EventsAccepted(**changes))  # type: ignore[arg-type]
    assert split(delivered(fact.SerializeToString())) == ()


@given(st.binary(max_size=200))
def test_splitting_any_bytes_never_raises(data: bytes) -> None:
    split(delivered(data))


@given(batches, st.data())
def test_splitting_a_damaged_message_never_raises(
    given_batches: Sequence[Sequence[Event]], data: st.DataObject
) -> None:
    payload = bytearray(accepted(*given_batches).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    split(delivered(bytes(payload)))
