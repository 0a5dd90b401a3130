"""What a slot is. Each has a module here and a row in `slots.table`.

Every window keeps n, the number of its events, and at most one slot more, whose number is in `windows.value`.
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
    """A number: units / 10^scale. The units are Python's integers, of any width."""

    units: int
    scale: int

    def at(self, scale: int) -> int:
        """The units at a scale that is no less than its own."""
        factor: int = 10 ** (scale - self.scale)
        return self.units * factor


class Slot(ABC):
    """One part of what a window keeps of its events. Merging is associative and commutative.

    code: what stands for the slot in columns of changes; it is not stored
    has_number: whether it keeps a number in `windows.value`
    has_members: whether it keeps rows in `window_members`, whose number is its number
    of_batches: whether what a batch adds to the number depends on it alone; then contributions show it
    inverse: whether events are taken away by arithmetic; if not, the month is computed again
    empty: the number of a window that no event is left of; None: it has none
    sql_merge: what `windows.value` becomes, in terms of `w` (what is stored) and `excluded` (what is new)
    cells: how columns of rows are folded; None where columns leave the number at 0
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
        """The number of two parts together, both at one scale and of some events.

        The plain twin of `cells` and `sql_merge`.
        """

    @abstractmethod
    def less(self, mine: Fixed | None, gone: Fixed | None) -> Fixed | None:
        """What is added, less what is taken away with it; None on either side: no event.

        Answers None where nothing is to be merged.
        """

    def merged(self, mine: Fixed | None, theirs: Fixed | None) -> Fixed | None:
        """As `merge`, of numbers of any scale; None is that of no events."""
        if mine is None or theirs is None:
            return theirs if mine is None else mine
        scale = max(mine.scale, theirs.scale)
        return Fixed(self.merge(mine.at(scale), theirs.at(scale)), scale)


class SlotRows(Protocol):
    """Numbers of cells, to be merged by the windows that cells belong to."""

    def merged(self, grouping: Grouping, rows: Int64s | slice) -> list[int]:
        """The number of each group; `rows` are those that the grouping is of."""
        ...


class SlotCells(ABC):
    """Numbers by measure and cell; those that nothing was put to mean nothing."""

    @abstractmethod
    def __init__(self, measures: int, cells: int) -> None: ...

    @abstractmethod
    def put(self, measure: int, grouping: Grouping, units: Int64s, present: Flags | None, bound: int) -> None:
        """Merges the rows of a measure by the cells of the grouping.

        present: which rows have the measure; None: all
        bound: no less than the sum of the magnitudes of the units
        """

    @classmethod
    @abstractmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The cells of all parts, one part after the other. They have the same measures."""

    @abstractmethod
    def at(self, measure: Int64s, cell: Int64s) -> SlotRows:
        """The numbers at these places."""
