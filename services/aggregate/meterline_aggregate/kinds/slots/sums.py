"""The slot for the sum of a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from meterline_aggregate.kinds.grouping import LIMIT, Grouping, wide_sums
from meterline_aggregate.kinds.slots.slot import Fixed, Flags, Int64s, Slot, SlotCells


@dataclass(frozen=True, slots=True)
class _Rows:
    low: Int64s
    high: Int64s | None
    bound: int

    def merged(self, grouping: Grouping, rows: Int64s | slice) -> list[int]:
        sums = wide_sums(grouping, self.low[rows], self.bound)
        if self.high is None:
            return sums
        high = grouping.sums(self.high[rows]).tolist()
        return [low + (more << 32) for low, more in zip(sums, high, strict=True)]


class _Cells(SlotCells):
    """low, high: the sums are low + high * 2^32; high is None where 64 bits hold all sums, as usual
    bound: at least the sum of the magnitudes of one measure's sums, for each measure
    """

    def __init__(self, measures: int, cells: int) -> None:
        self.low = np.zeros((measures, cells), np.int64)
        self.high: Int64s | None = None
        self.bound = 0

    def put(self, measure: int, grouping: Grouping, units: Int64s, present: Flags | None, bound: int) -> None:
        values = units if present is None else np.where(present, units, 0)
        if bound > LIMIT:
            # Halves of 32 bits cannot overflow below 2^30 rows.
            self.high = np.zeros_like(self.low) if self.high is None else self.high
            self.high[measure] = grouping.sums(values >> 32)
            values, bound = values & 0xFFFF_FFFF, len(values) << 32
        self.low[measure] = grouping.sums(values)
        self.bound = max(self.bound, bound)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        found = cls(0, 0)
        found.low = np.concatenate([part.low for part in parts], axis=1)
        if any(part.high is not None for part in parts):
            filled = [np.zeros_like(part.low) if part.high is None else part.high for part in parts]
            found.high = np.concatenate(filled, axis=1)
        found.bound = sum(part.bound for part in parts)
        return found

    def at(self, measure: Int64s, cell: Int64s) -> _Rows:
        high = None if self.high is None else self.high[measure, cell]
        # A window counts each event once, so the bound for all events is one for each window.
        return _Rows(self.low[measure, cell], high, self.bound)


class _Sums(Slot):
    code = 1
    inverse = True
    empty = 0
    sql_merge = "w.value + excluded.value"
    cells = _Cells

    def merge(self, mine: int, theirs: int) -> int:
        return mine + theirs

    def less(self, mine: Fixed | None, gone: Fixed | None) -> Fixed | None:
        """The number is negative when more is retracted than added."""
        return self.merged(mine, None if gone is None else Fixed(-gone.units, gone.scale))


SUMS = _Sums()
