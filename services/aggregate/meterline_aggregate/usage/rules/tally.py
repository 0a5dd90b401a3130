"""Adds up windows of totals in memory, for previews."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from meterline.decimals import of_units

from meterline_aggregate.folding.rules.changes import Changes, MemberChanges, WindowChanges
from meterline_aggregate.folding.rules.rows import TOTAL
from meterline_aggregate.kinds.kind import State
from meterline_aggregate.kinds.slots.slot import Fixed, Slot
from meterline_aggregate.windows.calendar import Grain

GRAINS: Final = (Grain.DAY, Grain.MONTH)


class WindowKey(NamedTuple):
    """A window of one tenant's total."""

    grain: Grain
    meter_id: int
    start_us: int


def rows_of(changes: WindowChanges | MemberChanges) -> dict[int, WindowKey]:
    """The rows for days and months of totals, by position."""
    chosen = np.flatnonzero(np.isin(changes.grain, GRAINS) & (changes.group_id == TOTAL))
    columns = (changes.grain, changes.meter_id, changes.start_us)
    keys = zip(*(column[chosen].tolist() for column in columns), strict=True)
    return {
        row: WindowKey(Grain(grain), meter_id, start_us)
        for row, (grain, meter_id, start_us) in zip(chosen.tolist(), keys, strict=True)
    }


def number_in(changes: WindowChanges, row: int) -> Fixed | None:
    """The number of a row; None where there is nothing to merge."""
    units = changes.numbers.units[row]
    return None if units is None else Fixed(units, int(changes.numbers.scale[row]))


class Tally:
    """Adds up the days and months of one meter of one tenant. `slot` is the meter's."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._events: dict[WindowKey, int] = {}
        self._numbers: dict[WindowKey, Fixed | None] = {}
        self._members: dict[WindowKey, set[bytes]] = {}

    def add(self, changes: Changes) -> None:
        windows, members = changes.windows, changes.members
        for row, key in rows_of(windows).items():
            self._events[key] = self._events.get(key, 0) + int(windows.event_count[row])
            self._numbers[key] = self._slot.merged(self._numbers.get(key), number_in(windows, row))
        for row, key in rows_of(members).items():
            self._members.setdefault(key, set()).add(members.member[row].tobytes())

    def state(self, key: WindowKey) -> State:
        """The state of the window."""
        number = self._numbers.get(key)
        if self._slot.has_members:
            number = Fixed(len(self._members.get(key, ())), 0)
        events = self._events.get(key, 0)
        return State(events, None if number is None else of_units(number.units, number.scale))
