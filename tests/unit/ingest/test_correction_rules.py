"""Amended events, messages of corrections, and effects that add up."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.decimals import to_text
from meterline.errors import InvalidArgumentError
from meterline.packing import unpack_signed, unpack_unsigned
from meterline_ingest.corrections import messages
from meterline_ingest.corrections.correction_message import events_corrected
from meterline_ingest.corrections.rules.changes import (
    DIMENSIONS,
    PROPERTIES,
    QUANTITIES,
    Changes,
    SignedRow,
    draft,
    to_columns,
)
from meterline_ingest.corrections.rules.effects import Effect, WindowEffect
from meterline_ingest.event.content import Content, padded
from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.event_types.rules.enrichment import Attribute, Enrichment, WhenMissing
from meterline_ingest.event_types.rules.properties import Kind, Property
from meterline_ingest.event_types.rules.types import Dimension, EventType, Quantity
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2
from meterline_protos.ingest.v1 import corrections_pb2

pytestmark = pytest.mark.req("T3.4")

ID = uuid.UUID(int=5)
CALL = EventType(
    "call",
    (Quantity("units", 2, False, True), Quantity("pages", 0, False, True)),
    (Dimension("region", False), Dimension("tier", False)),
    False,
    (Property("note", Kind.TEXT), Property("zone", Kind.TEXT), Property("phone", Kind.TEXT, sensitive=True)),
    (
        Enrichment(
            "customers",
            "region",
            (Attribute("tier", "tier"), Attribute("zone", "zone")),
            WhenMissing.ACCEPT,
        ),
    ),
)
BOOK = TypeBook({"call": CALL})

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
numbers = st.integers(-(10**18) + 1, 10**18 - 1)


def some_of(*names: str) -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(st.sampled_from(names), texts)


contents = st.builds(
    Content,
    st.just("call"),
    texts,
    st.integers(0, 2 * 10**15),
    some_of("region", "tier"),
    st.tuples(st.none() | numbers, st.none() | numbers).map(padded),
    some_of("note", "zone"),
    st.just(()) | st.just(("phone",)),
    st.just(()) | st.just(("abandoned",)),
    st.just(()) | st.just(("customers/eu@3",)),
)
paths = st.frozensets(
    st.sampled_from(
        [(DIMENSIONS, "region"), (DIMENSIONS, "tier"), (QUANTITIES, "units"), (PROPERTIES, "note")]
    )
)
changes = st.builds(
    Changes,
    st.none() | st.integers(0, 2 * 10**15),
    st.none() | texts,
    some_of("region", "tier"),
    st.dictionaries(st.sampled_from(["units", "pages"]), st.tuples(numbers, st.integers(0, 2))),
    some_of("note", "phone"),
    paths,
)


@given(contents)
def test_content_round_trips_through_json(content: Content) -> None:
    assert Content.from_json(json.loads(json.dumps(content.to_json()))) == content


@given(contents)
def test_empty_amendment_changes_nothing(content: Content) -> None:
    made = draft(ID, content, {"phone": "1"}, CALL, Changes())
    assert (made.subject, made.time_us, made.dimensions) == (
        content.subject,
        content.time_us,
        content.dimensions,
    )
    assert made.properties == {**content.properties, "phone": "1"}
    scales = {"units": 2, "pages": 0}
    given_units = dict(zip(scales, content.units, strict=False))
    assert made.quantities == {
        name: (units, scales[name]) for name, units in given_units.items() if units is not None
    }


@given(contents, changes)
def test_amendment_changes_only_named_fields(content: Content, wanted: Changes) -> None:
    before = draft(ID, content, {"phone": "1"}, CALL, Changes())
    made = draft(ID, content, {"phone": "1"}, CALL, wanted)

    assert made.subject == (content.subject if wanted.subject is None else wanted.subject)
    assert made.time_us == (content.time_us if wanted.time_us is None else wanted.time_us)
    # The catalogue's entry for the old region does not apply to the new one.
    stale = {"tier", "zone"} if "region" in wanted.touched else set()
    for kind, was, is_, said in (
        (DIMENSIONS, before.dimensions, made.dimensions, wanted.dimensions),
        (QUANTITIES, before.quantities, made.quantities, wanted.quantities),
        (PROPERTIES, before.properties, made.properties, wanted.properties),
    ):
        gone = stale | {name for place, name in wanted.removed if place == kind}
        kept = {name: value for name, value in was.items() if name not in gone}
        assert is_ == {**kept, **said}


@given(st.lists(contents, min_size=1, max_size=5))
def test_drafts_are_converted_to_columns_in_order(several: list[Content]) -> None:
    drafts = [draft(uuid.uuid4(), content, {}, CALL, Changes()) for content in several]
    columns = to_columns("acme", drafts)
    for row, made in enumerate(drafts):
        assert columns.ids[row].tobytes() == made.event_id.bytes
        assert columns.subjects[columns.subject_index[row]] == made.subject
        assert dict(columns.dimension_sets[columns.dimension_index[row]]) == made.dimensions
        assert dict(columns.property_sets[columns.property_index[row]]) == made.properties
        assert int(columns.times_us[row]) == made.time_us
        assert {
            column.name: (int(column.units[row]), column.scale)
            for column in columns.quantities
            if column.present is None or column.present[row]
        } == made.quantities


Row = tuple[bytes, str, int, tuple[tuple[str, str], ...], tuple[tuple[str, int], ...]]


def rows_of(fact: events_pb2.EventsAccepted) -> list[Row]:
    """All rows of a message, decoded one by one."""
    count = len(fact.event_ids) // 16
    series, subjects = unpack_unsigned(fact.series_index, count), unpack_unsigned(fact.subject_index, count)
    times = unpack_signed(fact.times_us, count)
    found = []
    for row in range(count):
        key = fact.series[series[row]]
        quantities = [
            (column.name, int(unpack_signed(column.units, count)[row]))
            for column in fact.quantities
            if not column.present or column.present[row]
        ]
        found.append(
            (
                fact.event_ids[16 * row : 16 * row + 16],
                fact.subjects[subjects[row]],
                int(times[row]) + fact.base_us,
                tuple((each.name, each.value) for each in key.dimensions),
                tuple(sorted(quantities)),
            )
        )
    return found


def row_of(row: SignedRow) -> Row:
    units = dict(zip(("units", "pages"), row.content.units, strict=False))
    return (
        row.event_id.bytes,
        row.content.subject,
        row.content.time_us,
        tuple(sorted(row.content.dimensions.items())),
        tuple(sorted((name, value) for name, value in units.items() if value is not None)),
    )


signed = st.builds(SignedRow, st.uuids(), contents, st.integers(1, 9), retracted_from=st.none() | st.uuids())


@given(st.lists(signed, min_size=1, max_size=8))
def test_message_has_every_row_with_its_sign(rows: list[SignedRow]) -> None:
    fact = events_pb2.EventsAccepted.FromString(
        events_corrected(3, bytes(16), types_pb2.TraceContext(), 9, rows, BOOK)
    )

    (batch,) = fact.batches
    in_message = rows_of(fact)
    taken = [row for row in rows if row.retracted]
    assert (batch.rows, batch.retracted) == (len(rows), len(taken))
    assert in_message[: batch.retracted] == [row_of(row) for row in taken]
    assert Counter(in_message) == Counter(map(row_of, rows))
    assert batch.origins == b"".join(row.retracted_from.bytes for row in taken if row.retracted_from)
    assert {series.tenant_id for series in fact.series} == {3}


MONTH = datetime(2026, 3, 1, tzinfo=UTC)
amounts = st.decimals(-(10**15), 10**15, places=3)


@given(st.lists(st.tuples(amounts, st.integers(-5, 5)), min_size=1, max_size=5), amounts)
def test_parts_of_an_effect_add_up_to_the_whole(parts: list[tuple[Decimal, int]], before: Decimal) -> None:
    first = WindowEffect("miles", 4, MONTH, MONTH + timedelta(days=31), before, before, 9, 9)
    effect, unknown = Effect(), Effect()
    for delta, events in parts:
        part = replace(first, after=before + delta, events_after=9 + events)
        effect.take([part], {"miles"})
        unknown.take([part], ())

    (whole,), (other,) = effect.windows.values(), unknown.windows.values()
    assert whole.after == before + sum(delta for delta, _ in parts)
    assert whole.events_after == other.events_after == 9 + sum(events for _, events in parts)
    assert (other.after is None) == (len(parts) > 1)
    assert effect.deltas(4) == {MONTH: {"miles": whole.delta}}
    assert effect.deltas(3) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [("0.000", "0"), ("12.50", "12.5"), ("-3", "-3"), ("1E+3", "1000"), ("100", "100")],
)
def test_effects_show_decimals_in_shortest_form(value: str, text: str) -> None:
    assert to_text(Decimal(value)) == text


@pytest.mark.parametrize("field", ["changes", "amend"])
def test_invalid_removal_names_the_request_field(field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        messages.changes(corrections_pb2.EventChanges(removed=["color"]), field)
    assert refused.value.field == f"{field}.removed"
