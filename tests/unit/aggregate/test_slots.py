"""Laws of slots: merging is commutative and associative; slots with an inverse can undo a merge."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.decimals import of_units, to_units
from meterline_aggregate.kinds.kind import NO_EVENTS, Kind, State
from meterline_aggregate.kinds.slots.slot import Fixed, Slot
from meterline_aggregate.kinds.slots.table import SLOTS
from meterline_aggregate.kinds.table import KINDS, find

pytestmark = pytest.mark.req("T2.2")

numbers = st.one_of(st.none(), st.builds(Fixed, st.integers(-(10**30), 10**30), st.integers(0, 12)))
NUMBERED = [slot for slot in SLOTS if slot.has_number]


def value(number: Fixed | None) -> Fraction | None:
    return None if number is None else Fraction(number.units, 10**number.scale)


@pytest.mark.parametrize("slot", NUMBERED, ids=lambda slot: type(slot).__name__)
@given(one=numbers, two=numbers, three=numbers)
def test_merge_is_commutative_and_associative(
    slot: Slot, one: Fixed | None, two: Fixed | None, three: Fixed | None
) -> None:
    assert value(slot.merged(one, two)) == value(slot.merged(two, one))
    left = slot.merged(slot.merged(one, two), three)
    assert value(left) == value(slot.merged(one, slot.merged(two, three)))
    assert value(slot.merged(one, None)) == value(one)


@pytest.mark.parametrize(
    "slot", [slot for slot in NUMBERED if slot.inverse], ids=lambda slot: type(slot).__name__
)
@given(one=numbers, two=numbers)
def test_inverse_undoes_a_merge(slot: Slot, one: Fixed | None, two: Fixed | None) -> None:
    together = slot.merged(one, two)
    assert (value(slot.less(together, two)) or 0) == (value(one) or 0)
    # Also when the retraction comes before the event.
    assert (value(slot.merged(slot.less(one, two), two)) or 0) == (value(one) or 0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.aggregation.name)
def test_every_kind_shows_zero_without_events(kind: Kind) -> None:
    assert kind.shown(NO_EVENTS) == 0
    if kind.slot.empty is not None:
        assert kind.value(State(0, Decimal(kind.slot.empty))) == 0


def test_unknown_kind_number_finds_no_kind() -> None:
    assert find(max(KINDS) + 1) is None
    assert find(0) is None


@given(st.integers(-(10**40), 10**40), st.integers(0, 18))
def test_units_round_trip_through_decimals(units: int, scale: int) -> None:
    found, at = to_units(of_units(units, scale))
    assert Fraction(found, 10**at) == Fraction(units, 10**scale)
