"""Events as columns, the one form behind every way in: row i is element i of every array."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt

from meterline_ingest.domain.limits import MAX_QUANTITY_COLUMNS

if TYPE_CHECKING:
    from meterline_ingest.domain.outcomes import Problem

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
    """Fixed-point values: value = units / 10^scale. `present` is None when every row has a value."""

    name: str
    scale: int
    units: Int64s
    present: Flags | None = None

    def take(self, rows: Int64s) -> QuantityColumn:
        present = None if self.present is None else self.present[rows]
        return QuantityColumn(self.name, self.scale, self.units[rows], present)


@dataclass(slots=True)
class Columns:
    """A batch. Index columns hold positions in the list beside them.

    ids: 16 bytes a row
    text_ids: None when all ids were UUIDs; else, a row, the id as it was sent or None
    times_us: microseconds since the Unix epoch; any 64 bits, until they are judged
    misread: rows that say what no column can hold; their elements elsewhere mean nothing
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


# Stands for names of quantities that no type has, where there are too many to keep them apart.
ANY_UNKNOWN: Final = ""


def kept_name(name: str, known: Container[str], columns: int) -> str:
    """The name that a quantity goes by in a batch which has so many columns of quantities.

    Each column is as long as the batch, so names that somebody made up must not have one each.
    """
    return name if columns < MAX_QUANTITY_COLUMNS or name in known else ANY_UNKNOWN


def interned(values: Sequence[K]) -> tuple[list[K], Indexes]:
    """The distinct ones of `values` in the order of their first occurrence, and the position of each."""
    positions = {value: at for at, value in enumerate(dict.fromkeys(values))}
    return list(positions), np.array([positions[value] for value in values], np.uint32)


def concatenate(batches: Sequence[Columns], known: Container[str]) -> Columns:
    """One batch with the rows of all, in order. Dictionaries are put side by side, not merged.

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
    """Most events have none: the empty set stays one entry, so that what looks for properties sees none."""
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
    total = sum(len(batch) for batch in batches)
    joined: dict[tuple[str, int], QuantityColumn] = {}
    start = 0
    for batch in batches:
        end = start + len(batch)
        for column in batch.quantities:
            target = joined.get((column.name, column.scale))
            if target is None:
                name = kept_name(column.name, known, len(joined))
                key = (name, column.scale if name else 0)
                target = joined.get(key)
                if target is None:
                    target = joined[key] = QuantityColumn(
                        *key, np.zeros(total, np.int64), np.zeros(total, np.bool_)
                    )
            assert target.present is not None
            present = np.True_ if column.present is None else column.present
            target.units[start:end] = column.units
            # Those without a name of their own share a column.
            target.present[start:end] |= present
        start = end
    return list(joined.values())
