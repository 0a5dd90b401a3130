"""The slot for the greatest value of a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from meterline_aggregate.kinds.grouping import Grouping
from meterline_aggregate.kinds.slots.slot import Fixed, Flags, Int64s, Slot, SlotCells

_LEAST: Final = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class _Rows:
    values: Int64s

    def merged(self, grouping: Grouping, rows: Int64s | slice) -> list[int]:
        found: list[int] = grouping.greatest(self.values[rows]).tolist()
        return found


class _Cells(SlotCells):
    def __init__(self, measures: int, cells: int) -> None:
        self.values = np.zeros((measures, cells), np.int64)

    def put(self, measure: int, grouping: Grouping, units: Int64s, present: Flags | None, bound: int) -> None:
        self.values[measure] = grouping.greatest(
            units if present is None else np.where(present, units, _LEAST)
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        found = cls(0, 0)
        found.values = np.concatenate([part.values for part in parts], axis=1)
        return found

    def at(self, measure: Int64s, cell: Int64s) -> _Rows:
        return _Rows(self.values[measure, cell])


class _Highest(Slot):
    code = 2
    inverse = False
    empty = None
    sql_merge = "greatest(w.value, excluded.value)"
    cells = _Cells

    def merge(self, mine: int, theirs: int) -> int:
        return max(mine, theirs)

    def less(self, mine: Fixed | None, gone: Fixed | None) -> Fixed | None:
        """Retracted events change nothing until the month is rebuilt."""
        return mine


HIGHEST = _Highest()
