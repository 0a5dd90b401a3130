"""Description of an event type over all tenants that own a type of that name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.event_types.rules.descriptions import MOST, describe
from meterline_ingest.event_types.rules.types import Dimension, EventType, Quantity

pytestmark = pytest.mark.req("O1", "T6.1")


def own(quantities: Sequence[str] = (), **dimensions: Sequence[str]) -> EventType:
    return EventType(
        "own.call",
        tuple(Quantity(name, 6, required=False, signed=False) for name in quantities),
        tuple(Dimension(name, required=False, values=tuple(values)) for name, values in dimensions.items()),
        subject_required=False,
    )


def test_description_merges_the_types_of_all_owners() -> None:
    one = own(["own.a", "own.b"], region=["eu"], kind=["x"], free=[])
    other = own(["own.a", "own.c"], region=["us", "eu"], kind=[], more=["m"])
    book = TypeBook({}, {1: {"own.call": one}, 2: {"own.call": other, "own.other": own(["own.z"])}, 3: {}})
    found = describe(book.named("own.call"))
    assert found is not None
    assert found.quantities == ("own.a", "own.b", "own.c")
    # One owner allows any value, so the description allows any.
    assert found.dimensions == {"region": ("eu", "us"), "kind": (), "free": (), "more": ("m",)}
    assert not found.partial


def test_unowned_type_has_no_description() -> None:
    assert describe(TypeBook({}, {1: {}}).named("own.call")) is None


def test_operator_type_has_precedence() -> None:
    common = EventType("call", (), (), subject_required=True)
    assert TypeBook({"call": common}, {1: {"own.call": own()}}).named("call") == [common]


def test_description_size_is_bounded() -> None:
    # 700 types of 16 dimensions each: more than a description may contain.
    types = [own((), **{f"d{n}-{at}": ["v"] for at in range(16)}) for n in range(700)]
    found = describe(types)
    assert found is not None
    assert (len(found.dimensions), found.partial) == (MOST, True)
    many = [own((), a=[f"{n}-{at}" for at in range(1_000)], b=["v"]) for n in range(11)]
    found = describe(many)
    assert found is not None
    assert (found.dimensions, found.partial) == ({"a": (), "b": ("v",)}, False)
