"""The expected sums, computed straight from the file.

This module must share no code with Meterline or with the rest of the demo, so that its result is
independent. It knows the file, the one constant by which time was moved, the calendar of New York, and
which flights cannot be billed.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import zoneinfo
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

NEW_YORK = zoneinfo.ZoneInfo("America/New_York")

# carrier, year, month, meter, airport of origin; the airport is empty for the sum over all of them.
Cell = tuple[str, int, int, str, str]


@dataclass(slots=True)
class Expected:
    """rows: in the file
    no_aircraft: rows that cannot be billed
    no_air_time: rows that have an aircraft, and no minutes in the air
    billable: by carrier, the rows that can be
    sums: by cell; a cell without flights is missing
    """

    rows: int = 0
    no_aircraft: int = 0
    no_air_time: int = 0
    billable: Counter[str] = field(default_factory=Counter)
    sums: dict[Cell, Decimal] = field(default_factory=dict)


def compute(path: Path, moved_by: datetime.timedelta, *, without_air_time: bool) -> Expected:
    """All sums of the file at `path` when every departure is `moved_by` later than it was.

    `without_air_time`: whether flights that have no minutes in the air are billed for all else
    """
    expected = Expected()
    sums: defaultdict[Cell, Decimal] = defaultdict(Decimal)
    tails: defaultdict[Cell, set[str]] = defaultdict(set)
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            expected.rows += 1
            if not row["tailnum"]:
                expected.no_aircraft += 1
                continue
            if not row["air_time"]:
                expected.no_air_time += 1
                if not without_air_time:
                    continue
            carrier = row["carrier"]
            expected.billable[carrier] += 1
            year, month = _month(row, moved_by)
            for origin in ("", row["origin"]):
                sums[carrier, year, month, "departures", origin] += 1
                if row["air_time"]:
                    sums[carrier, year, month, "air_minutes", origin] += Decimal(row["air_time"])
                sums[carrier, year, month, "miles", origin] += Decimal(row["distance"])
                tails[carrier, year, month, "aircraft", origin].add(row["tailnum"])
    expected.sums = dict(sums) | {cell: Decimal(len(seen)) for cell, seen in tails.items()}
    return expected


def _month(row: dict[str, str], moved_by: datetime.timedelta) -> tuple[int, int]:
    """The month of New York in which the flight departs after the move."""
    clock = row["sched_dep_time"].zfill(4)
    date = datetime.date(int(row["year"]), int(row["month"]), int(row["day"]))
    if clock == "2400":
        date, clock = date + datetime.timedelta(days=1), "0000"
    local = datetime.datetime.combine(date, datetime.time(int(clock[:2]), int(clock[2:])), NEW_YORK)
    moved = datetime.datetime.fromtimestamp(local.timestamp() + moved_by.total_seconds(), NEW_YORK)
    return moved.year, moved.month
