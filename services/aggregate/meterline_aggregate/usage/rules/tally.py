"""Windows of totals, added up in memory: for what is shown and not stored."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, NamedTuple

import numpy as np
from meterline.decimals import of_units

from meterline_aggregate.folding.rules.changes import Changes, MemberChanges, WindowChanges
from meterline_aggregate.folding.rules.rows import TOTAL
from meterline_aggregate.windows.calendar import Grain

GRAINS: Final = (Grain.DAY, Grain.MONTH)


class WindowKey(NamedTuple):
    """A window of the total of one tenant."""

    grain: Grain
    meter_id: int
    start_us: int


def rows_of(changes: WindowChanges | MemberChanges) -> dict[int, WindowKey]:
    """The rows that are of days and months of totals."""
    chosen = np.flatnonzero(np.isin(changes.grain, GRAINS) & (changes.group_id == TOTAL))
    columns = (changes.grain, changes.meter_id, changes.start_us)
    keys = zip(*(column[chosen].tolist() for column in columns), strict=True)
    return {
        row: WindowKey(Grain(grain), meter_id, start_us)
        for row, (grain, meter_id, start_us) in zip(chosen.tolist(), keys, strict=True)
    }


class Tally:
    """Maxima and unique counts of one tenant, by days and months."""

    def __init__(self) -> None:
        self._events: dict[WindowKey, int] = {}
        self._greatest: dict[WindowKey, Decimal] = {}
        self._members: dict[WindowKey, set[bytes]] = {}

    def add(self, changes: Changes) -> None:
        windows, members = changes.windows, changes.members
        for row, key in rows_of(windows).items():
            self._events[key] = self._events.get(key, 0) + int(windows.event_count[row])
            units = windows.numbers.units[row]
            if units is not None:
                value = of_units(units, int(windows.numbers.scale[row]))
                self._greatest[key] = max(self._greatest.get(key, value), value)
        for row, key in rows_of(members).items():
            self._members.setdefault(key, set()).add(members.member[row].tobytes())

    def value(self, key: WindowKey) -> tuple[Decimal, int]:
        """The value, 0 where there are no events, and how many there are."""
        # Only unique counts have members.
        members = self._members.get(key)
        value = self._greatest.get(key, Decimal(0)) if members is None else Decimal(len(members))
        return value, self._events.get(key, 0)
