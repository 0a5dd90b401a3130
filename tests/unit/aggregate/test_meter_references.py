"""A meter may refer only to fields of its event type; a refusal lists the existing ones."""

from __future__ import annotations

from typing import Any

import pytest
from meterline.errors import FailedPreconditionError
from meterline_aggregate.kinds.kind import Aggregation
from meterline_aggregate.meters.rules.definitions import Definition
from meterline_aggregate.meters.rules.references import EventTypeDescription, check_references

pytestmark = pytest.mark.req("T6.1")

FLIGHT = EventTypeDescription(
    frozenset({"air_minutes", "miles"}),
    {"origin": frozenset(), "cabin": frozenset({"F", "Y"})},
)


def meter(aggregation: Aggregation = Aggregation.COUNT, **more: Any) -> Definition:
    return Definition("m", "flight", aggregation, **more)


@pytest.mark.parametrize(
    "definition",
    [
        meter(),
        meter(Aggregation.SUM, quantity="miles", group_by=("origin", "cabin")),
        meter(Aggregation.UNIQUE),
        meter(Aggregation.UNIQUE, unique_dimension="origin"),
        meter(filter=(("cabin", "F"), ("origin", "anything"))),
    ],
)
def test_references_to_existing_fields_are_accepted(definition: Definition) -> None:
    check_references(definition, FLIGHT)


@pytest.mark.parametrize(
    ("definition", "field", "reason", "rule"),
    [
        (
            meter(Aggregation.MAX, quantity="mile"),
            "meter.quantity",
            "QUANTITY_UNKNOWN",
            "flight has no quantity 'mile'; it has air_minutes, miles",
        ),
        (
            meter(group_by=("origin", "dest")),
            "meter.group_by",
            "DIMENSION_UNKNOWN",
            "flight has no dimension 'dest'; it has cabin, origin",
        ),
        (
            meter(Aggregation.UNIQUE, unique_dimension="miles"),
            "meter.unique_dimension",
            "DIMENSION_UNKNOWN",
            "flight has no dimension 'miles'; it has cabin, origin",
        ),
        (
            meter(filter=(("dest", "JFK"),)),
            "meter.filter.dest",
            "DIMENSION_UNKNOWN",
            "flight has no dimension 'dest'; it has cabin, origin",
        ),
        (
            meter(filter=(("cabin", "y"),)),
            "meter.filter.cabin",
            "VALUE_NOT_ALLOWED",
            "flight has no cabin 'y'; it has F, Y",
        ),
    ],
)
def test_unknown_reference_is_refused_with_the_existing_names(
    definition: Definition, field: str, reason: str, rule: str
) -> None:
    with pytest.raises(FailedPreconditionError) as raised:
        check_references(definition, FLIGHT)
    assert (raised.value.subject, raised.value.reason, raised.value.rule) == (field, reason, rule)


def test_unknown_event_type_is_refused() -> None:
    with pytest.raises(FailedPreconditionError) as raised:
        check_references(meter(), None)
    assert (raised.value.subject, raised.value.reason) == ("meter.event_type", "EVENT_TYPE_UNKNOWN")


def test_refusal_lists_a_limited_number_of_names() -> None:
    many = EventTypeDescription(frozenset(f"q{number:03}" for number in range(20)), {})
    with pytest.raises(FailedPreconditionError, match=r"it has q000, .*, q015 and 4 more$"):
        check_references(meter(Aggregation.SUM, quantity="q"), many)
    with pytest.raises(FailedPreconditionError, match=r"it has none$"):
        check_references(meter(group_by=("origin",)), many)


def test_partial_description_refuses_only_known_violations() -> None:
    partial = EventTypeDescription(frozenset(), {"cabin": frozenset({"F"})}, partial=True)
    check_references(meter(Aggregation.SUM, quantity="miles", group_by=("origin",)), partial)
    with pytest.raises(FailedPreconditionError):
        check_references(meter(filter=(("cabin", "Y"),)), partial)
