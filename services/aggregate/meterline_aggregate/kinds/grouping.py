"""Grouped sums and maxima in numpy: exact, on 64-bit integers, without Python objects per row."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

# Bound of keys and sums, so that no 64-bit operation on them overflows.
LIMIT: Final = 1 << 62

# A table of all possible keys is cheaper than sorting unless it is much longer than the rows.
_DENSE_FACTOR = 4
_DENSE_ALWAYS = 1 << 10


class UnsuitableError(ArithmeticError):
    """The numbers are too wide for 64 bits; the caller falls back to Python's integers."""


class Grouping(Protocol):
    """Rows grouped by key. `keys` are distinct and ascending; results are in their order."""

    keys: Int64s

    def counts(self) -> Int64s: ...

    def sums(self, values: Int64s) -> Int64s: ...

    def greatest(self, values: Int64s) -> Int64s: ...


class _Dense:
    """Groups rows in a table with one place for each possible key."""

    def __init__(self, keys: Int64s, bound: int) -> None:
        self._places = keys
        self._bound = bound
        self._counts = np.bincount(keys, minlength=bound)
        self.keys: Int64s = np.flatnonzero(self._counts)

    def counts(self) -> Int64s:
        return self._counts[self.keys]

    def sums(self, values: Int64s) -> Int64s:
        table = np.zeros(self._bound, np.int64)
        np.add.at(table, self._places, values)
        return table[self.keys]

    def greatest(self, values: Int64s) -> Int64s:
        table = np.full(self._bound, np.iinfo(np.int64).min)
        np.maximum.at(table, self._places, values)
        return table[self.keys]


class _Sorted:
    """Groups rows by sorting."""

    def __init__(self, keys: Int64s) -> None:
        self._order = np.argsort(keys)
        in_order = keys[self._order]
        changes = np.empty(len(keys), np.bool_)
        changes[:1] = True
        np.not_equal(in_order[1:], in_order[:-1], out=changes[1:])
        self._starts = np.flatnonzero(changes)
        self.keys: Int64s = in_order[self._starts]
        self._rows = len(keys)

    def counts(self) -> Int64s:
        return np.diff(self._starts, append=self._rows)

    def sums(self, values: Int64s) -> Int64s:
        return np.add.reduceat(values[self._order], self._starts) if self._rows else values

    def greatest(self, values: Int64s) -> Int64s:
        return np.maximum.reduceat(values[self._order], self._starts) if self._rows else values


def group(keys: Int64s, bound: int) -> Grouping:
    """Groups rows by keys in [0, bound)."""
    if bound <= max(_DENSE_ALWAYS, _DENSE_FACTOR * len(keys)):
        return _Dense(keys, bound)
    return _Sorted(keys)


def wide_sums(grouping: Grouping, values: Int64s, bound: int) -> list[int]:
    """Exact sums. `bound`: at least the sum of the values' magnitudes, for each key."""
    if bound < LIMIT:
        sums: list[int] = grouping.sums(values).tolist()
        return sums
    # Halves of 32 bits cannot overflow below 2^31 rows; Python's integers join them.
    high, low = grouping.sums(values >> 32), grouping.sums(values & 0xFFFF_FFFF)
    return [(upper << 32) + lower for upper, lower in zip(high.tolist(), low.tolist(), strict=True)]


def magnitude(values: Int64s) -> int:
    """An upper bound of the sum of the magnitudes of `values`, at most 2^21 per value above it."""
    # Shifted by 20 bits, the sum of 2^20 rows of any value fits; 1 for each row covers the bits cut off.
    return (int(np.abs(values >> 20).sum()) + len(values)) << 20


def widest(values: Int64s) -> int:
    """The greatest magnitude in `values`."""
    return max(int(values.max()), -int(values.min())) if len(values) else 0


def packed(*parts: tuple[Int64s, int]) -> tuple[Int64s, int]:
    """Combines several key parts, most significant first, each given with its bound; returns keys and bound.

    Raises UnsuitableError when the keys need more than 62 bits.
    """
    keys, bound = parts[0]
    for part, size in parts[1:]:
        bound *= size
        if bound > LIMIT:
            raise UnsuitableError("keys are too wide")
        keys = keys * size + part
    return keys, bound


def unpacked(keys: Int64s, *sizes: int) -> list[Int64s]:
    """The parts of keys made by `packed`; `sizes` are the bounds of all parts but the first."""
    parts = []
    for size in reversed(sizes):
        keys, part = np.divmod(keys, size)
        parts.append(part)
    return [keys, *reversed(parts)]
