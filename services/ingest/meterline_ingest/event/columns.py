"""Events as columns, the form of all events from calls: row i is element i of every array."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from meterline_ingest.event.bounds import MAX_QUANTITY_COLUMNS
from meterline_ingest.event.outcomes import Problem

K = TypeVar("K", bound=Hashable)

Int64s = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.uint32]
Ids = npt.NDArray[np.void]
Flags = npt.NDArray[np.bool_]

# Names and values, sorted by name.
Pairs = tuple[tuple[str, str], ...]
DimensionSet = Pairs
PropertySet = Pairs

UUID_DTYPE: Final = np.dtype("V16")
NO_PROPERTIES: Final[list[PropertySet]] = [()]


@dataclass(slots=True)
class QuantityColumn:
    """Fixed-point values: value = units / 10^scale.

    units: one a row of the batch or, with `rows`, one for each of those
    present: None when all of them are values
    rows: positions of the only rows that may have a value, if these are few; in any order
    """

    name: str
    scale: int
    units: Int64s
    present: Flags | None = None
    rows: Int64s | None = None

    def having(self) -> Int64s:
        """Positions in `units` of the elements that are values."""
        return np.arange(len(self.units)) if self.present is None else np.flatnonzero(self.present)


@dataclass(slots=True)
class Columns:
    """A batch. Index columns hold positions in the list before them.

    ids: 16 bytes a row
    text_ids: None when all ids were UUIDs; else, a row, the id as it was sent or None
    times_us: microseconds since the Unix epoch; any 64 bits, until they are judged
    misread: rows with content that no column can hold; their elements elsewhere have no meaning
    """

    tenants: list[str]
    tenant_index: Indexes
    types: list[str]
    type_index: Indexes
    subjects: list[str]
    subject_index: Indexes
    dimension_sets: list[DimensionSet]
    dimension_index: Indexes
    property_sets: list[PropertySet]
    property_index: Indexes
    ids: Ids
    text_ids: list[str | None] | None
    times_us: Int64s
    quantities: list[QuantityColumn]
    misread: Mapping[int, Problem] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times_us)


# Columns in which fewer than one row in this many has a value list these rows. A batch of many tenants has
# many quantities; columns as long as the batch, and all work on them, would be mostly empty.
SPARSE: Final = 8

# Replaces names of quantities that no type has, when there are too many to keep them apart.
ANY_UNKNOWN: Final = ""


def kept_name(name: str, known: Container[str], columns: int) -> str:
    """The name that a quantity has in a batch with so many columns of quantities.

    Each column is as long as the batch, so made-up names must not get one each.
    """
    return name if columns < MAX_QUANTITY_COLUMNS or name in known else ANY_UNKNOWN


def interned(values: Sequence[K]) -> tuple[list[K], Indexes]:
    """The distinct ones of `values` in the order of their first occurrence, and the position of each."""
    positions = {value: at for at, value in enumerate(dict.fromkeys(values))}
    return list(positions), np.array([positions[value] for value in values], np.uint32)


def concatenate(batches: Sequence[Columns], known: Container[str]) -> Columns:
    """One batch with the rows of all, in order. Dictionaries are concatenated, not merged.

    known: the names of quantities of all types
    """
    if len(batches) == 1:
        return batches[0]
    return Columns(
        *_joined(batches, "tenants", "tenant_index"),
        *_joined(batches, "types", "type_index"),
        *_joined(batches, "subjects", "subject_index"),
        *_joined(batches, "dimension_sets", "dimension_index"),
        *_joined_properties(batches),
        np.concatenate([batch.ids for batch in batches]),
        _joined_text_ids(batches),
        np.concatenate([batch.times_us for batch in batches]),
        _joined_quantities(batches, known),
        _joined_misread(batches),
    )


def _joined_misread(batches: Sequence[Columns]) -> dict[int, Problem]:
    joined: dict[int, Problem] = {}
    start = 0
    for batch in batches:
        joined.update((start + row, problem) for row, problem in batch.misread.items())
        start += len(batch)
    return joined


def _joined(batches: Sequence[Columns], values: str, index: str) -> tuple[list, Indexes]:  # type: ignore[type-arg]
    entries: list[object] = []
    indexes = []
    for batch in batches:
        indexes.append(getattr(batch, index) + np.uint32(len(entries)))
        entries.extend(getattr(batch, values))
    return entries, np.concatenate(indexes)


def _joined_properties(batches: Sequence[Columns]) -> tuple[list[PropertySet], Indexes]:
    """Most events have none: the empty set stays one entry, so that searches for properties find none."""
    if all(batch.property_sets == NO_PROPERTIES for batch in batches):
        return list(NO_PROPERTIES), np.zeros(sum(map(len, batches)), np.uint32)
    return _joined(batches, "property_sets", "property_index")


def _joined_text_ids(batches: Sequence[Columns]) -> list[str | None] | None:
    if all(batch.text_ids is None for batch in batches):
        return None
    joined: list[str | None] = []
    for batch in batches:
        joined.extend(batch.text_ids or [None] * len(batch))
    return joined


def _joined_quantities(batches: Sequence[Columns], known: Container[str]) -> list[QuantityColumn]:
    """Columns of the same name and scale become one; rows without the column have no value in it."""
    parts: dict[tuple[str, int], list[tuple[int, QuantityColumn]]] = {}
    start = 0
    for batch in batches:
        for column in batch.quantities:
            key = column.name, column.scale
            if key not in parts:
                # Those without a name of their own share a column.
                name = kept_name(column.name, known, len(parts))
                key = name, column.scale if name else 0
            parts.setdefault(key, []).append((start, column))
        start += len(batch)
    return [_joined_column(*key, found, start) for key, found in parts.items()]


def _joined_column(
    name: str, scale: int, parts: Sequence[tuple[int, QuantityColumn]], total: int
) -> QuantityColumn:
    columns = [column for _, column in parts]
    if all(each.present is None and each.rows is None for each in columns):
        units = np.concatenate([each.units for each in columns])
        if len(units) == total:
            return QuantityColumn(name, scale, units)
    having = [each.having() for each in columns]
    rows = np.concatenate(
        [
            start + (having_ if column.rows is None else column.rows[having_])
            for (start, column), having_ in zip(parts, having, strict=True)
        ]
    )
    units = np.concatenate([each.units[having_] for each, having_ in zip(columns, having, strict=True)])
    return with_values(name, scale, rows, units, total)


def with_values(name: str, scale: int, rows: Int64s, units: Int64s, total: int) -> QuantityColumn:
    """A column in which these rows of a batch have a value each."""
    if len(rows) * SPARSE <= total:
        return QuantityColumn(name, scale, units, rows=rows)
    spread, present = np.zeros(total, np.int64), np.zeros(total, np.bool_)
    spread[rows], present[rows] = units, True
    return QuantityColumn(name, scale, spread, None if present.all() else present)
