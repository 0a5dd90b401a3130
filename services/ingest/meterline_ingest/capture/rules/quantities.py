"""Moves the quantities of a batch from the columns in which they came to the columns of storage.

Callers choose how many types, columns and rows there are, so no work grows with the product of all three: a
column is judged for all its rows at once, whatever their types, and rules are looked up once a type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from meterline.decimals import (
    MAX_DIGITS,
    MAX_SCALE,
    MAX_UNITS,
    POWERS,
    TOO_LARGE,
    TOO_PRECISE,
    units_to_text,
)

from meterline_ingest.event.bounds import MAX_QUANTITIES
from meterline_ingest.event.columns import Columns, Flags, Int64s, QuantityColumn
from meterline_ingest.event.names import shown
from meterline_ingest.event.outcomes import Kind, Problem
from meterline_ingest.event.problems import Problems
from meterline_ingest.event_types.rules.types import EventType, Quantity

# Of 64 bits.
_MOST_DIGITS: Final = 19
# At this scale and beyond, 64 bits hold no value but 0 that has few enough decimals.
MAX_SENT_SCALE: Final = MAX_SCALE + _MOST_DIGITS
_POWERS: Final[Int64s] = np.array(POWERS, np.int64)
_NO_TYPE: Final = -1


@dataclass(slots=True)
class Slot:
    """One of the quantity columns of storage: units at the type's scale; `present` None means all."""

    units: Int64s
    present: Flags | None


def invalid_values(column: QuantityColumn) -> list[tuple[Flags, str, str]]:
    """Masks of the rows with a value that no text could have, with reason and rule, by `decimals.fixed`; as a
    rule none. The units may be any, the scale MAX_SENT_SCALE at most."""
    found: list[tuple[Flags, str, str]] = []
    narrow = _narrowed(column)
    if narrow is not column:
        power = 10 ** min(column.scale - MAX_SCALE, _MOST_DIGITS - 1)
        found.append((column.units != narrow.units * power, *TOO_PRECISE))
    too_long = _beyond(narrow.units)
    if too_long.any():
        for zeros in range(1, min(narrow.scale, _MOST_DIGITS - MAX_DIGITS) + 1):
            shorter, rest = np.divmod(narrow.units, 10**zeros)
            too_long &= (rest != 0) | _beyond(shorter)
        found.append((too_long, *TOO_LARGE))
    if column.present is None:
        return found
    return [(mask & column.present, reason, rule) for mask, reason, rule in found]


def _narrowed(column: QuantityColumn) -> QuantityColumn:
    """The column at a scale of MAX_SCALE at most: the same but for rows that have too many decimals."""
    lost = column.scale - MAX_SCALE
    if lost <= 0:
        return column
    # Nothing but 0 has this many digits too many.
    units = column.units // 10**lost if lost < _MOST_DIGITS else np.zeros_like(column.units)
    return replace(column, scale=MAX_SCALE, units=units)


def _beyond(units: Int64s) -> Flags:
    return (units >= MAX_UNITS) | (units <= -MAX_UNITS)


def to_slots(
    columns: Columns, definitions: Sequence[EventType | None], problems: Problems
) -> list[Slot | None]:
    """Moves every quantity to the storage column and scale of its row's type; flags what breaks
    the rules of that type.

    definitions: one an entry of `columns.types`; rows of types that are None are left alone
    """
    move = _Move(columns, definitions, problems)
    # Sorted by name, so that rows and columns report the same of several faults.
    for column in sorted(columns.quantities, key=lambda column: column.name):
        move.take(column)
    move.check_required()
    return move.slots


class _Move:
    """Types are numbered here; a `kind` is such a number."""

    def __init__(self, columns: Columns, definitions: Sequence[EventType | None], problems: Problems) -> None:
        # By identity: a type is one object in its book, and comparing its parts would cost more.
        types = {id(each): each for each in definitions if each is not None}
        kinds = {key: kind for kind, key in enumerate(types)}
        self.slots: list[Slot | None] = [None] * MAX_QUANTITIES
        self._types = list(types.values())
        self._places = _places(self._types)
        self._problems = problems
        self._size = len(columns)
        # None when all rows are of the only type, as in most batches.
        self._kind_of_row: Int64s | None = None
        if len(definitions) != 1 or not types:
            of_entry = [_NO_TYPE if each is None else kinds[id(each)] for each in definitions]
            self._kind_of_row = np.array(of_entry or [_NO_TYPE], np.int64)[columns.type_index]

    def take(self, sent: QuantityColumn) -> None:
        column = _narrowed(sent)
        rows, kinds = column.rows, self._kind_of_row
        if rows is not None and kinds is not None:
            kinds = kinds[rows]
        places = self._places.get(column.name, {})
        here = np.ones(len(column.units), np.bool_) if column.present is None else column.present
        if kinds is not None:
            # One place more, which rows without a type find at index -1.
            known, typed = np.zeros((2, len(self._types) + 1), np.bool_)
            known[list(places)], typed[:-1] = True, True
            self._refuse_unknown(column, here & (typed & ~known)[kinds], kinds)
            here = here & known[kinds]
        elif not places:
            self._refuse_unknown(column, here, None)
        if places and here.any():
            units = self._checked(column, places, here, kinds)
            self._store(places, column, units, here, kinds)

    def _refuse_unknown(self, column: QuantityColumn, mask: Flags, kinds: Int64s | None) -> None:
        def say(kind: int) -> tuple[str, str]:
            return f"quantities.{shown(column.name)}", f"a quantity of {self._types[kind].name}"

        self._flag(mask, "QUANTITY_UNKNOWN", say, column.rows, kinds)

    def _checked(
        self, column: QuantityColumn, places: Mapping[int, int], here: Flags, kinds: Int64s | None
    ) -> Int64s:
        """The units at the scales of the types; flags rows that break the types' rules."""

        def of_row(value_of: Callable[[Quantity], int]) -> Int64s | int:
            if kinds is None:
                return value_of(rule(0))
            values = np.zeros(len(self._types), np.int64)
            for kind in places:
                values[kind] = value_of(rule(kind))
            found: Int64s = values[kinds]
            return found

        def rule(kind: int) -> Quantity:
            return self._types[kind].quantities[places[kind]]

        def flag(mask: Flags, reason: str, say: Callable[[Quantity], str]) -> None:
            name = f"quantities.{column.name}"
            self._flag(mask & here, reason, lambda kind: (name, say(rule(kind))), column.rows, kinds)

        units, more = column.units, of_row(lambda quantity: quantity.scale) - column.scale
        up, down = _POWERS[np.maximum(more, 0)], _POWERS[np.maximum(-more, 0)]
        if np.any(down > 1):
            units, rest = np.divmod(units, down)
        else:
            rest = None
        # Judged before scaling up, so that no product can leave 64 bits.
        limit = MAX_UNITS // up
        out = (units >= limit) | (units <= -limit)
        if out.any():
            flag(out, "QUANTITY_OUT_OF_RANGE", _range_rule)
            units = np.where(out, 0, units)
        if rest is not None:
            flag(rest != 0, "QUANTITY_TOO_PRECISE", lambda quantity: f"at most {quantity.scale} decimals")
        if np.any(up > 1):
            units = units * up
        low = units < of_row(_least)
        if low.any():
            unsigned = of_row(lambda quantity: not quantity.signed) != 0
            flag(low & unsigned & (units < 0), "QUANTITY_NEGATIVE", lambda _: "not negative")
            flag(low, "QUANTITY_BELOW_MINIMUM", _minimum_rule)
        flag(units > of_row(_most), "QUANTITY_ABOVE_MAXIMUM", _maximum_rule)
        return units

    def _store(
        self,
        places: Mapping[int, int],
        column: QuantityColumn,
        units: Int64s,
        here: Flags,
        kinds: Int64s | None,
    ) -> None:
        everywhere = kinds is None and column.present is None and column.rows is None
        if everywhere and self.slots[places[0]] is None:
            self.slots[places[0]] = Slot(units, None)
            return
        for at in set(places.values()):
            where = here
            if kinds is not None and len(self._types) > 1:
                mine = np.zeros(len(self._types) + 1, np.bool_)
                mine[[kind for kind, place in places.items() if place == at]] = True
                where = here & mine[kinds]
            slot = self.slots[at]
            if slot is None:
                slot = self.slots[at] = Slot(np.zeros(self._size, np.int64), np.zeros(self._size, np.bool_))
            if slot.present is not None:
                rows = where if column.rows is None else column.rows[where]
                slot.units[rows] = units[where]
                slot.present[rows] = True

    def check_required(self) -> None:
        for at, slot in enumerate(self.slots):
            needed = [len(each.quantities) > at and each.quantities[at].required for each in self._types]
            if not any(needed) or (slot is not None and slot.present is None):
                continue
            present = None if slot is None else slot.present
            missing = np.ones(self._size, np.bool_) if present is None else ~present
            if self._kind_of_row is not None:
                missing = missing & np.array([*needed, False])[self._kind_of_row]
            self._flag(missing, "QUANTITY_REQUIRED", partial(self._required, at), None, self._kind_of_row)

    def _required(self, at: int, kind: int) -> tuple[str, str]:
        definition = self._types[kind]
        return f"quantities.{definition.quantities[at].name}", f"required by {definition.name}"

    def _flag(
        self,
        mask: Flags,
        reason: str,
        say: Callable[[int], tuple[str, str]],
        rows: Int64s | None,
        kinds: Int64s | None,
    ) -> None:
        """Flags rows that are not flagged yet; `say` returns field and rule for a kind.

        rows, kinds: of the elements of `mask`; None: all rows in their order, and all of the only kind
        """
        if not mask.any():
            return
        found = np.flatnonzero(mask)
        flagged = found if rows is None else rows[found]
        kind_of = [0] * len(found) if kinds is None else kinds[found].tolist()
        said: dict[int, Problem] = {}
        for row, kind in zip(flagged.tolist(), kind_of, strict=True):
            if row not in self._problems.by_row:
                if kind not in said:
                    said[kind] = Problem(Kind.REJECTED, reason, *say(kind))
                self._problems.by_row[row] = said[kind]


def _places(types: Sequence[EventType]) -> Mapping[str, Mapping[int, int]]:
    """By name of a quantity: the kinds that have it, and the storage column of each."""
    found: dict[str, dict[int, int]] = {}
    for kind, definition in enumerate(types):
        for at, quantity in enumerate(definition.quantities):
            found.setdefault(quantity.name, {})[kind] = at
    return found


def _least(quantity: Quantity) -> int:
    least = -MAX_UNITS if quantity.minimum is None else quantity.minimum
    return least if quantity.signed else max(least, 0)


def _most(quantity: Quantity) -> int:
    return MAX_UNITS if quantity.maximum is None else quantity.maximum


def _range_rule(quantity: Quantity) -> str:
    return f"at most {MAX_DIGITS - quantity.scale} digits before the point"


def _minimum_rule(quantity: Quantity) -> str:
    return f"at least {units_to_text(quantity.minimum or 0, quantity.scale)}"


def _maximum_rule(quantity: Quantity) -> str:
    return f"at most {units_to_text(quantity.maximum or 0, quantity.scale)}"
