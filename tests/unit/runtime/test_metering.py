"""The fold, explanations and the fake of aggregate count exactly the same events."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from meterline.metering import Counting
from meterline_aggregate.folding.rules.changes import Changes
from meterline_aggregate.folding.rules.plain import fold_plain
from meterline_aggregate.folding.rules.rows import Batch, Message, Quantity, Series
from meterline_aggregate.folding.rules.vectors import fold_vectors
from meterline_aggregate.folding.series import matches, targets
from meterline_aggregate.kinds.kind import Aggregation, Measured
from meterline_aggregate.kinds.table import kind_of
from meterline_aggregate.meters.messages import to_meter
from meterline_aggregate.meters.rules.definitions import Definition, Meter
from meterline_protos.aggregate.v1 import meters_pb2
from meterline_protos.events.v1 import events_pb2
from meterline_protos.ingest.v1 import events_pb2 as ingest_pb2
from meterline_publisher.peers import counting_of

from tests.support.fake_mesh import counts as fake_counts

pytestmark = pytest.mark.req("X1", "T2.2")

TYPE = "call"
NOON = 1_780_000_000_000_000


@dataclass(frozen=True)
class Event:
    type: str
    subject: str
    dimensions: dict[str, str]
    quantities: dict[str, int]


names = st.sampled_from(["d", "e"])
values = st.sampled_from(["", "x", "y"])
quantities = st.sampled_from(["a", "b"])
events = st.builds(
    Event,
    st.sampled_from([TYPE, "other"]),
    st.sampled_from(["", "s", "t"]),
    st.dictionaries(names, values),
    st.dictionaries(quantities, st.integers(-2, 2)),
)


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    kind = draw(st.sampled_from(Aggregation))
    measured = kind_of(kind).measured
    return Definition(
        "meter",
        TYPE,
        kind,
        quantity=draw(quantities) if measured is Measured.QUANTITY else "",
        unique_dimension=draw(names | st.just("")) if measured is Measured.MEMBER else "",
        filter=tuple(sorted(draw(st.dictionaries(names, st.sampled_from(["x", "y"]))).items())),
    )


def message(meters: Sequence[Meter], rows: Sequence[Event]) -> Message:
    """A message with one batch and one series for each event."""
    known = []
    for event in rows:
        dimensions = [
            events_pb2.Dimension(name=name, value=event.dimensions[name]) for name in event.dimensions
        ]
        series = events_pb2.Series(tenant_id=1, event_type=event.type, dimensions=dimensions)
        mine = [meter for meter in meters if meter.definition.event_type == event.type]
        known.append(Series(1, "UTC", tuple(targets(1, list(matches(mine, series)), {}))))
    columns = {
        name: Quantity(
            0,
            np.array([event.quantities.get(name, 0) for event in rows], np.int64),
            np.array([name in event.quantities for event in rows], np.bool_),
        )
        for name in {name for event in rows for name in event.quantities}
    }
    return Message(
        [Batch(uuid.uuid4().bytes, 1, "", 0) for _ in rows],
        known,
        [event.subject for event in rows],
        np.arange(len(rows), dtype=np.uint32),
        np.arange(len(rows), dtype=np.uint32),
        np.full(len(rows), NOON, np.int64),
        columns,
    )


def counted(changes: Changes, given_: Message, meter_id: int) -> list[int]:
    """The events that contributed to a meter, by their places."""
    places = {batch.batch_id: place for place, batch in enumerate(given_.batches)}
    found = zip(changes.contributions.meter_id.tolist(), changes.contributions.batch.tolist(), strict=True)
    return sorted(places[changes.batches[batch].batch_id] for meter, batch in found if meter == meter_id)


def explained(counting: Counting, rows: Sequence[Event]) -> list[int]:
    return [
        place
        for place, event in enumerate(rows)
        if counting.takes(event.type, event.dimensions, event.subject, event.quantities)
    ]


def counted_by_fake(meter: meters_pb2.Meter, rows: Sequence[Event]) -> list[int]:
    """The events that the publisher's fake of aggregate counts, by their places."""
    return [
        place
        for place, event in enumerate(rows)
        if fake_counts(
            meter,
            ingest_pb2.StoredEvent(
                type=event.type,
                subject=event.subject,
                dimensions=event.dimensions,
                quantities={name: str(units) for name, units in event.quantities.items()},
            ),
        )
    ]


def unique(dimension: str) -> Definition:
    return Definition("meter", TYPE, Aggregation.UNIQUE, unique_dimension=dimension)


@pytest.mark.parametrize("fold", [fold_plain, fold_vectors])
@given(made=st.lists(definitions(), min_size=1, max_size=4), rows=st.lists(events, min_size=1, max_size=12))
@example(made=[unique("d")], rows=[Event(TYPE, "s", {"d": ""}, {}), Event(TYPE, "s", {}, {})])
@example(made=[unique("")], rows=[Event(TYPE, "", {"d": "x"}, {}), Event(TYPE, "s", {}, {})])
@settings(deadline=None)
def test_explanation_and_fake_list_the_events_that_the_fold_counts(
    fold: Callable[[Sequence[Message]], Changes], made: list[Definition], rows: list[Event]
) -> None:
    meters = [Meter(meter_id, definition) for meter_id, definition in enumerate(made, 1)]
    folded = message(meters, rows)
    changes = fold([folded])
    for meter in meters:
        # The publisher knows meters only from answers of aggregate.
        assert counting_of(to_meter(meter)) == meter.definition.counting
        assert explained(counting_of(to_meter(meter)), rows) == counted(changes, folded, meter.meter_id)
        assert counted_by_fake(to_meter(meter), rows) == counted(changes, folded, meter.meter_id)


BERLIN = Counting(TYPE, {"city": "Berlin"}, "amount")
TAILS = Counting(TYPE, unique_dimension="tail")
SUBJECTS = Counting(TYPE, of_subjects=True)


@pytest.mark.parametrize(
    ("counting", "event", "expected"),
    [
        (BERLIN, Event(TYPE, "", {"city": "Berlin", "more": "x"}, {"amount": 0}), True),
        (BERLIN, Event("other", "", {"city": "Berlin"}, {"amount": 1}), False),
        (BERLIN, Event(TYPE, "", {"city": "Paris"}, {"amount": 1}), False),
        (BERLIN, Event(TYPE, "", {}, {"amount": 1}), False),
        (BERLIN, Event(TYPE, "", {"city": "Berlin"}, {}), False),
        (Counting(TYPE), Event(TYPE, "", {}, {}), True),
        (TAILS, Event(TYPE, "", {"tail": "N1"}, {}), True),
        (TAILS, Event(TYPE, "somebody", {}, {}), False),
        # An empty value is not a member: it would add one to every count.
        (TAILS, Event(TYPE, "somebody", {"tail": ""}, {}), False),
        (SUBJECTS, Event(TYPE, "somebody", {}, {}), True),
        (SUBJECTS, Event(TYPE, "", {"tail": "N1"}, {}), False),
    ],
)
def test_event_is_explained_by_the_meters_that_count_it(
    counting: Counting, event: Event, expected: bool
) -> None:
    assert explained(counting, [event]) == ([0] if expected else [])
