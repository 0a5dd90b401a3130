"""The results of folding: columns of changes, in the order in which they are applied.

All replicas apply changes in the same order of keys, so that they cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from meterline_aggregate.folding.rules.rows import Batch
from meterline_aggregate.kinds.slots.table import SLOTS

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_HAVE_NUMBERS = [slot.has_number for slot in SLOTS]
_HAVE_OWN_NUMBERS = [slot.of_batches for slot in SLOTS]


def _none() -> Int64s:
    return np.empty(0, np.int64)


@dataclass(slots=True)
class Numbers:
    """Exact numbers of rows: units / 10^scale. Units are undefined where a row's slot has no number.

    slot: codes of slots
    units: Python integers, since a sum may exceed 64 bits. None: nothing to merge, the stored number is kept
    """

    slot: Int64s = field(default_factory=_none)
    units: list[int | None] = field(default_factory=list)
    scale: Int64s = field(default_factory=_none)

    def literals(self, rows: Int64s, *, of_batches: bool) -> list[str]:
        """The numbers of some rows as Postgres literals; NULL for slots that have none.

        of_batches: NULL also for numbers that do not depend on the batch alone
        """
        have = _HAVE_OWN_NUMBERS if of_batches else _HAVE_NUMBERS
        return [
            f"{units}e-{scale}" if have[slot] and units is not None else "NULL"
            for units, slot, scale in zip(
                [self.units[row] for row in rows.tolist()],
                self.slot[rows].tolist(),
                self.scale[rows].tolist(),
                strict=True,
            )
        ]

    @classmethod
    def joined(cls, parts: Sequence[Numbers]) -> Numbers:
        return cls(
            np.concatenate([part.slot for part in parts]),
            [units for part in parts for units in part.units],
            np.concatenate([part.scale for part in parts]),
        )

    def only(self, chosen: Flags) -> Numbers:
        rows = np.flatnonzero(chosen).tolist()
        return Numbers(self.slot[chosen], [self.units[row] for row in rows], self.scale[chosen])


@dataclass(slots=True)
class WindowChanges:
    """One row per window, sorted by grain, tenant, meter, start and group.

    last_batch: position in `Changes.batches` of the greatest batch id that added events to the window
    """

    grain: Int64s = field(default_factory=_none)
    tenant_id: Int64s = field(default_factory=_none)
    meter_id: Int64s = field(default_factory=_none)
    start_us: Int64s = field(default_factory=_none)
    group_id: Int64s = field(default_factory=_none)
    event_count: Int64s = field(default_factory=_none)
    last_batch: Int64s = field(default_factory=_none)
    numbers: Numbers = field(default_factory=Numbers)

    def __len__(self) -> int:
        return len(self.grain)

    def only(self, chosen: Flags) -> WindowChanges:
        return WindowChanges(
            self.grain[chosen],
            self.tenant_id[chosen],
            self.meter_id[chosen],
            self.start_us[chosen],
            self.group_id[chosen],
            self.event_count[chosen],
            self.last_batch[chosen],
            self.numbers.only(chosen),
        )

    @classmethod
    def joined(cls, parts: Sequence[WindowChanges]) -> WindowChanges:
        return cls(
            np.concatenate([part.grain for part in parts]),
            np.concatenate([part.tenant_id for part in parts]),
            np.concatenate([part.meter_id for part in parts]),
            np.concatenate([part.start_us for part in parts]),
            np.concatenate([part.group_id for part in parts]),
            np.concatenate([part.event_count for part in parts]),
            np.concatenate([part.last_batch for part in parts]),
            Numbers.joined([part.numbers for part in parts]),
        )


@dataclass(slots=True)
class MemberChanges:
    """One row per window and member (a digest of 16 bytes), sorted, without duplicates."""

    grain: Int64s = field(default_factory=_none)
    tenant_id: Int64s = field(default_factory=_none)
    meter_id: Int64s = field(default_factory=_none)
    start_us: Int64s = field(default_factory=_none)
    group_id: Int64s = field(default_factory=_none)
    member: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, "V16"))

    def __len__(self) -> int:
        return len(self.grain)


@dataclass(slots=True)
class ContributionChanges:
    """One row per tenant, meter, slice (see `Windows.lineage`) and batch, sorted by these."""

    tenant_id: Int64s = field(default_factory=_none)
    meter_id: Int64s = field(default_factory=_none)
    start_us: Int64s = field(default_factory=_none)
    batch: Int64s = field(default_factory=_none)
    event_count: Int64s = field(default_factory=_none)
    numbers: Numbers = field(default_factory=Numbers)

    def __len__(self) -> int:
        return len(self.tenant_id)

    def only(self, chosen: Flags) -> ContributionChanges:
        return ContributionChanges(
            self.tenant_id[chosen],
            self.meter_id[chosen],
            self.start_us[chosen],
            self.batch[chosen],
            self.event_count[chosen],
            self.numbers.only(chosen),
        )


@dataclass(slots=True)
class Skipped:
    """Contributions of batches to meters of unknown kinds, to be folded once the kind is known.

    taken: for each contribution, the marks of the rows that it retracts, 16 bytes each
    """

    contributions: ContributionChanges = field(default_factory=ContributionChanges)
    taken: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Rebuilds:
    """Requests for rebuilds: slots without an inverse lost events, or events were skipped.

    months: (tenant, meter, start) to rebuild, sorted
    sources: (tenant, meter, start, position of the batch) of contributions that retracted events, sorted
    """

    months: list[tuple[int, int, int]] = field(default_factory=list)
    sources: list[tuple[int, int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """All changes of a batch of messages. `totals`: events of each tenant, whether a meter counts them or
    not.
    """

    batches: Sequence[Batch]
    windows: WindowChanges
    members: MemberChanges
    contributions: ContributionChanges
    totals: dict[int, int]
    rebuilds: Rebuilds = field(default_factory=Rebuilds)
    skipped: Skipped = field(default_factory=Skipped)
