"""The events of the load as columns, and their expected totals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tests.bench.ids import Ids, Int64s, uuid4, uuid7

EVENT_TYPE: Final = "bench.request"
QUANTITY: Final = "units"
DIMENSION: Final = "region"
# Number of values of the dimension by which both meters are grouped.
REGIONS: Final = 20
# Quantities are hundredths, from 0.01 to 100.00.
SCALE: Final = 2
MAX_UNITS: Final = 10_000
# Events are dated as if made at this rate until now.
MADE_PER_SECOND: Final = 300_000
# A repeated event comes from one of this many preceding batches of the same tenant.
REPEATED_FROM: Final = 20
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Workload:
    """The shape of the events.

    mixed: every event of a batch belongs to another tenant; else a batch has one tenant
    spread_ms: the ids of a batch are spread over this many milliseconds, interleaved with those of other
        batches; 0: batches do not interleave
    random_ids: UUIDv4, which have no order, instead of UUIDv7
    days: events have random times in this many days before now; 0: the times of their ids
    """

    tenants: int = 50
    subjects: int = 100
    mixed: bool = False
    spread_ms: int = 0
    random_ids: bool = False
    days: int = 0


def tenant_name(number: int) -> str:
    return f"bench-{number:03d}"


def subject_name(number: int) -> str:
    return f"subject-{number:06d}"


def region_name(number: int) -> str:
    return f"region-{number:02d}"


@dataclass(frozen=True, slots=True)
class Events:
    """Row i is element i of every column.

    made_at_ms: when the id was made; occurred_at_ms: the event's time
    fresh: false for events that repeat an earlier one
    """

    ids: Ids
    tenants: Int64s
    subjects: Int64s
    regions: Int64s
    units: Int64s
    made_at_ms: Int64s
    occurred_at_ms: Int64s
    fresh: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, rows: slice) -> Events:
        return Events(*(column[rows] for column in self._columns()))

    def counted(self) -> Counted:
        """The columns that are needed for the totals."""
        return Counted(
            (self.tenants * REGIONS + self.regions).astype(np.int32), self.units.astype(np.int32), self.fresh
        )

    def repeat(self, rows: Int64s, sources: Int64s) -> None:
        """Turns `rows` into repetitions of `sources`."""
        for column in self._columns():
            column[rows] = column[sources]
        self.fresh[rows] = False

    def _columns(self) -> tuple[npt.NDArray[Any], ...]:
        return (
            self.ids,
            self.tenants,
            self.subjects,
            self.regions,
            self.units,
            self.made_at_ms,
            self.occurred_at_ms,
            self.fresh,
        )


def generate(
    workload: Workload, batches: int, batch: int, now_ms: int, seed: int, duplicates: float = 0.0
) -> Events:
    """Generates `batches` times `batch` events, in the order of sending.

    duplicates: share of each batch, at random places, that repeats earlier events; at most one half
    """
    rng = np.random.default_rng(seed)
    count = batches * batch
    # Rounds of all tenants, each in a different order.
    rounds = -(-batches // workload.tenants)
    turns = np.concatenate([rng.permutation(workload.tenants) for _ in range(rounds)])[:batches]
    tenants = rng.integers(0, workload.tenants, count) if workload.mixed else np.repeat(turns, batch)
    made_at_ms = _made_at(workload.spread_ms, batches, batch, now_ms, rng)
    events = Events(
        ids=uuid4(count, rng) if workload.random_ids else uuid7(made_at_ms, rng),
        tenants=tenants,
        subjects=rng.integers(0, workload.subjects, count),
        regions=rng.integers(0, REGIONS, count),
        units=rng.integers(1, MAX_UNITS + 1, count),
        made_at_ms=made_at_ms,
        occurred_at_ms=_occurred_at(workload.days, made_at_ms, now_ms, rng),
        fresh=np.ones(count, np.bool_),
    )
    repeated = int(batch * duplicates)
    if repeated:
        _scatter_duplicates(events, turns, batch, repeated, rng, mixed=workload.mixed)
    return events


def _made_at(spread_ms: int, batches: int, batch: int, now_ms: int, rng: np.random.Generator) -> Int64s:
    """Milliseconds at which the events were made, in order within each batch."""
    count = batches * batch
    steady = now_ms - (count - np.arange(count)) * 1000 // MADE_PER_SECOND
    if spread_ms == 0:
        return steady
    ages = np.sort(rng.integers(0, spread_ms, (batches, batch)), axis=1)[:, ::-1]
    ends: Int64s = steady.reshape(batches, batch)[:, -1:] - ages
    return ends.reshape(count)


def _occurred_at(days: int, made_at_ms: Int64s, now_ms: int, rng: np.random.Generator) -> Int64s:
    """Milliseconds at which the events occurred, in random order if they are dated over `days`."""
    if days == 0:
        return made_at_ms.copy()
    return now_ms - rng.integers(0, days * _DAY_MS, len(made_at_ms))


def _scatter_duplicates(
    events: Events, turns: Int64s, batch: int, repeated: int, rng: np.random.Generator, *, mixed: bool
) -> None:
    """Puts `repeated` earlier events at random places of each batch; in the first one, its own events."""
    earlier: dict[int, list[int]] = {}
    for at, turn in enumerate(turns.tolist()):
        known = earlier.setdefault(0 if mixed else turn, [])
        # Disjoint places: an overwritten row cannot be repeated.
        places = at * batch + rng.choice(batch, 2 * repeated, replace=False)
        rows, sources = places[:repeated], places[repeated:]
        if known:
            batches = rng.choice(np.array(known[-REPEATED_FROM:]), repeated)
            sources = batches * batch + rng.integers(0, batch, repeated)
        events.repeat(rows, sources)
        known.append(at)


@dataclass(frozen=True, slots=True)
class Counted:
    """The data kept of encoded events: 9 bytes an event, since a minute's load has millions.

    cells: tenant * REGIONS + region
    """

    cells: npt.NDArray[np.int32]
    units: npt.NDArray[np.int32]
    fresh: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, rows: slice) -> Counted:
        return Counted(self.cells[rows], self.units[rows], self.fresh[rows])

    def tenant(self, row: int) -> int:
        return int(self.cells[row]) // REGIONS


@dataclass(slots=True)
class Tally:
    """Events and their summed units by tenant (rows) and region (columns), in exact integers."""

    counts: Int64s
    units: Int64s

    @classmethod
    def empty(cls, tenants: int) -> Tally:
        return cls(np.zeros((tenants, REGIONS), np.int64), np.zeros((tenants, REGIONS), np.int64))

    @classmethod
    def of(cls, events: Counted, tenants: int) -> Tally:
        """Counts each fresh event once; repetitions add nothing."""
        tally = cls.empty(tenants)
        cells = events.cells[events.fresh]
        np.add.at(tally.counts.reshape(-1), cells, 1)
        np.add.at(tally.units.reshape(-1), cells, events.units[events.fresh].astype(np.int64))
        return tally

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Tally:
        return cls(np.array(data["counts"], np.int64), np.array(data["units"], np.int64))

    def as_dict(self) -> dict[str, Any]:
        return {"counts": self.counts.tolist(), "units": self.units.tolist()}

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.counts + other.counts, self.units + other.units)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def of_tenant(self, tenant: int) -> tuple[int, int]:
        """(events, units)"""
        return int(self.counts[tenant].sum()), int(self.units[tenant].sum())
