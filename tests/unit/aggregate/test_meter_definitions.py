"""Valid and invalid meter definitions, and which events a meter counts."""

from __future__ import annotations

from typing import Any

import pytest
from meterline.errors import InvalidArgumentError
from meterline_aggregate.kinds.kind import Aggregation
from meterline_aggregate.meters.rules.definitions import Definition

pytestmark = pytest.mark.req("T6.1")

COUNT, SUM, MAX, UNIQUE = Aggregation


def definition(**changes: Any) -> Definition:
    given: dict[str, Any] = {"name": "m", "event_type": "flight", "aggregation": COUNT} | changes
    return Definition(**given)


GOOD: list[dict[str, Any]] = [
    {},
    {"aggregation": SUM, "quantity": "miles"},
    {"aggregation": MAX, "quantity": "miles"},
    {"aggregation": UNIQUE},
    {"aggregation": UNIQUE, "unique_dimension": "origin"},
    {"name": "a" * 64},
    {"name": "A.b_c-1"},
    {"group_by": ("a", "b", "c", "d")},
    {"filter": (("a", "1"), ("b", "x" * 256))},
]

BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "meter.name"),
    ({"name": "a" * 65}, "meter.name"),
    ({"name": "-a"}, "meter.name"),
    ({"name": "a b"}, "meter.name"),
    ({"name": "ä"}, "meter.name"),
    ({"name": "a\n"}, "meter.name"),
    ({"event_type": ""}, "meter.event_type"),
    ({"quantity": "miles"}, "meter.quantity"),
    ({"aggregation": SUM}, "meter.quantity"),
    ({"aggregation": MAX, "quantity": " subject"}, "meter.quantity"),
    ({"aggregation": UNIQUE, "quantity": "miles"}, "meter.quantity"),
    ({"unique_dimension": "origin"}, "meter.unique_dimension"),
    ({"aggregation": SUM, "quantity": "q", "unique_dimension": "origin"}, "meter.unique_dimension"),
    ({"aggregation": UNIQUE, "unique_dimension": "!"}, "meter.unique_dimension"),
    ({"group_by": ("a", "b", "c", "d", "e")}, "meter.group_by"),
    ({"group_by": ("a", "a")}, "meter.group_by"),
    ({"group_by": ("",)}, "meter.group_by"),
    ({"filter": (("", "1"),)}, "meter.filter"),
    ({"filter": (("a", ""),)}, "meter.filter.a"),
    ({"filter": (("a", "x" * 257),)}, "meter.filter.a"),
    ({"filter": (("a", "\0"),)}, "meter.filter.a"),
    ({"filter": tuple((f"d{n:02}", "1") for n in range(17))}, "meter.filter"),
]


@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_valid_definition_is_accepted(changes: dict[str, Any]) -> None:
    definition(**changes)


@pytest.mark.parametrize(("changes", "field"), BAD, ids=lambda case: str(case)[:60])
def test_invalid_definition_is_refused_with_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        definition(**changes)
    assert raised.value.field == field
    assert raised.value.rule


def test_filter_requires_all_values() -> None:
    one = definition(filter=(("class", "first"), ("origin", "JFK")))
    assert one.counting.takes_series("flight", {"origin": "JFK", "class": "first", "other": "x"})
    assert not one.counting.takes_series("flight", {"origin": "JFK"})
    assert not one.counting.takes_series("flight", {"origin": "JFK", "class": "second"})
    assert definition().counting.takes_series("flight", {})


def test_group_has_a_value_for_every_dimension() -> None:
    one = definition(group_by=("origin", "class"))
    assert one.group_of({"origin": "JFK", "other": "x"}) == (("class", ""), ("origin", "JFK"))
    assert one.group_of({}) == (("class", ""), ("origin", ""))
    assert definition().group_of({"origin": "JFK"}) == ()
    assert definition(group_by=("class", "origin")).group_of({"class": "a"}) == one.group_of({"class": "a"})


def test_definitions_that_differ_in_any_field_are_unequal() -> None:
    different = [definition(**changes) for changes in GOOD]
    for one in different:
        assert [one.is_equivalent_to(other) for other in different].count(True) == 1
    assert definition(group_by=("a", "b")).is_equivalent_to(definition(group_by=("b", "a")))
