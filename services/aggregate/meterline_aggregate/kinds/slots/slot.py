"""The base class of slots. Each slot has a module in this package and a row in `slots.table`.

Every window stores its number of events and at most one more slot, whose number is in `windows.value`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, LiteralString, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from meterline_aggregate.kinds.grouping import Grouping

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Fixed(NamedTuple):
    """A number: units / 10^scale. Units are Python integers of any width."""

    units: int
    scale: int

    def at(self, scale: int) -> int:
        """The units at `scale`, which must not be smaller than the number's own."""
        factor: int = 10 ** (scale - self.scale)
        return self.units * factor


class Slot(ABC):
    """One part of a window's state. Merging is associative and commutative.

    code: identifies the slot in columns of changes; it is not stored
    has_number: whether the slot has a number in `windows.value`
    has_members: whether it has rows in `window_members`; its number is their count
    of_batches: whether a batch's part of the number depends on that batch only; contributions then show it
    inverse: whether events can be subtracted; if not, the month is rebuilt
    empty: the number of a window that lost all its events; None: NULL
    sql_merge: the new `windows.value`, as an expression of `w` (stored) and `excluded` (new)
    cells: folds columns of rows; None where folding leaves the number at 0
    """

    code: ClassVar[int]
    has_number: ClassVar[bool] = True
    has_members: ClassVar[bool] = False
    of_batches: ClassVar[bool] = True
    inverse: ClassVar[bool]
    empty: ClassVar[int | None]
    sql_merge: ClassVar[LiteralString]
    cells: ClassVar[type[SlotCells] | None] = None

    @abstractmethod
    def merge(self, mine: int, theirs: int) -> int:
        """Merges two numbers of one scale, each of at least one event.

        The plain equivalent of `cells` and `sql_merge`, for tests and small batches.
        """

    @abstractmethod
    def less(self, mine: Fixed | None, gone: Fixed | None) -> Fixed | None:
        """The number to merge after adding `mine` and retracting `gone`; None for either means no event.

        Returns None where there is nothing to merge.
        """

    def merged(self, mine: Fixed | None, theirs: Fixed | None) -> Fixed | None:
        """As `merge`, for numbers of any scale; None means no events."""
        if mine is None or theirs is None:
            return theirs if mine is None else mine
        scale = max(mine.scale, theirs.scale)
        return Fixed(self.merge(mine.at(scale), theirs.at(scale)), scale)


class SlotRows(Protocol):
    """Numbers of cells, to be merged into windows."""

    def merged(self, grouping: Grouping, rows: Int64s | slice) -> list[int]:
        """The number of each group; `rows` are the rows that `grouping` groups."""
        ...


class SlotCells(ABC):
    """Numbers by measure and cell; undefined where nothing was put."""

    @abstractmethod
    def __init__(self, measures: int, cells: int) -> None: ...

    @abstractmethod
    def put(self, measure: int, grouping: Grouping, units: Int64s, present: Flags | None, bound: int) -> None:
        """Merges a measure's rows by cell.

        present: which rows have the measure; None: all
        bound: at least the sum of the units' magnitudes
        """

    @classmethod
    @abstractmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The cells of all parts in order. All parts have the same measures."""

    @abstractmethod
    def at(self, measure: Int64s, cell: Int64s) -> SlotRows:
        """The numbers at these positions."""
