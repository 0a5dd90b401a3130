"""The input of folding: the rows of messages as columns, with the targets of each series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from meterline_aggregate.kinds.slots.slot import Slot

Int64s = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]

# Measures other than quantities, whose names are never empty and contain no blanks.
EVERY_EVENT: Final = ""
SUBJECT: Final = " subject"

# The group of all events.
TOTAL: Final = 0


@dataclass(frozen=True, slots=True)
class Target:
    """One number that the events of a series add to.

    slot: stores the number, in addition to the number of events
    measure: EVERY_EVENT, SUBJECT, or a quantity's name; only events that have it count
    member: for slots whose members are values of a dimension, the digest of the series' value
    """

    meter_id: int
    slot: Slot
    group_id: int
    measure: str
    member: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One combination of tenant, event type and dimensions. `zone` is the tenant's time zone.

    Each meter that counts the series has a target for the total, and one for a group if it has groups.
    """

    tenant_id: int
    zone: str
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one call. `traceparent` is the W3C context of that call, or empty."""

    batch_id: bytes
    rows: int
    traceparent: str
    received_at_us: int


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column of fixed-point values: value = units / 10^scale. `present` is None when all rows have one."""

    scale: int
    units: Int64s
    present: Flags | None

    def only(self, chosen: Flags) -> Quantity:
        present = None if self.present is None else self.present[chosen]
        return Quantity(self.scale, self.units[chosen], present)


@dataclass(frozen=True, slots=True)
class Message:
    """Row i is element i of every column; rows of one batch are adjacent, in the order of `batches`.

    series_index and subject_index are positions in `series` and `subjects`.
    retracted: rows that counted before and are to be subtracted; None when there are none
    """

    batches: Sequence[Batch]
    series: Sequence[Series]
    subjects: Sequence[str]
    series_index: Indexes
    subject_index: Indexes
    times_us: Int64s
    quantities: dict[str, Quantity]
    retracted: Flags | None = None

    def __len__(self) -> int:
        return len(self.times_us)

    @property
    def retracted_rows(self) -> Flags:
        """For each row whether it is retracted."""
        return np.zeros(len(self), np.bool_) if self.retracted is None else self.retracted

    def only(self, chosen: Flags) -> Message:
        """The message with the chosen rows only. Batches keep their positions, even without rows."""
        owners = np.repeat(np.arange(len(self.batches)), [batch.rows for batch in self.batches])
        rows = np.bincount(owners[chosen], minlength=len(self.batches)).tolist()
        return Message(
            [replace(batch, rows=count) for batch, count in zip(self.batches, rows, strict=True)],
            self.series,
            self.subjects,
            self.series_index[chosen],
            self.subject_index[chosen],
            self.times_us[chosen],
            {name: quantity.only(chosen) for name, quantity in self.quantities.items()},
        )
