"""Reads the flights of the data, and moves them in time so that the last of them has just departed."""

from __future__ import annotations

import csv
import gzip
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

DATA: Final = Path(__file__).parent.parent / "data" / "flights-2013q1.csv.gz"
LOCAL: Final = ZoneInfo("America/New_York")

# An id is assigned when an event is recorded, and is the same in every attempt to send it. What records a
# flight here is the row that was written in 2013, so its id follows from what identifies the flight in that
# row: reading the file again sends the same ids, and the events are recognised.
_NAMESPACE: Final = uuid.UUID("8a4ad1b6-7e33-5a0c-9d0f-3f4c2f1e6b57")
# No two rows agree in all of these.
_KEY: Final = ("year", "month", "day", "sched_dep_time", "carrier", "flight", "origin")


@dataclass(frozen=True, slots=True)
class Flight:
    """One row. `departed` is the scheduled departure in UTC, in 2013: a cancelled flight has one too.

    tail_number: empty where the row names no aircraft
    air_minutes: None for a flight that was cancelled or diverted
    """

    event_id: uuid.UUID
    carrier: str
    tail_number: str
    origin: str
    destination: str
    air_minutes: int | None
    miles: int
    departed: datetime

    @property
    def is_billable(self) -> bool:
        return bool(self.tail_number) and self.air_minutes is not None


def read(path: Path = DATA) -> Iterator[Flight]:
    """The flights of a file in its order. ValueError for a row that is not one."""
    with gzip.open(path, "rt", encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            yield _flight(row)


def sample(source: Path, count: int, target: Path) -> None:
    """Writes about `count` rows of `source` to `target`, evenly from beginning to end: a smaller world of
    the same length."""
    with gzip.open(source, "rt", encoding="ascii", newline="") as file:
        header, *rows = file.readlines()
    step = max(1, -(-len(rows) // count))
    with gzip.open(target, "wt", encoding="ascii", newline="") as file:
        file.writelines([header, *rows[::step]])


def shift_to(now: datetime, flights: Sequence[Flight]) -> timedelta:
    """What to add to every departure, so that the last one is a minute or two before `now`.

    Whole minutes, as the data has; one constant, so that distances in time stay what they were.
    """
    latest = max(flight.departed for flight in flights)
    return now.replace(second=0, microsecond=0) - timedelta(minutes=1) - latest


def _flight(row: Mapping[str, str]) -> Flight:
    key = "/".join(row[name] for name in _KEY)
    return Flight(
        event_id=uuid.uuid5(_NAMESPACE, key),
        carrier=row["carrier"],
        tail_number=row["tailnum"],
        origin=row["origin"],
        destination=row["dest"],
        air_minutes=int(row["air_time"]) if row["air_time"] else None,
        miles=int(row["distance"]),
        departed=departure(int(row["year"]), int(row["month"]), int(row["day"]), row["sched_dep_time"]),
    )


def departure(year: int, month: int, day: int, clock: str) -> datetime:
    """An hour and minute of New York (`5`, `930`, `2359`; `2400` ends the day) as an instant in UTC.

    A time that was skipped when clocks went forward counts from the clock before the change, and one that
    came twice is its first occurrence. ValueError for what is no time of day.
    """
    hour, minute = divmod(int(clock), 100)
    if not (0 <= hour < 24 and 0 <= minute < 60) and (hour, minute) != (24, 0):
        raise ValueError(f"{clock!r} is no time of day")
    # Days are added to the wall clock, before it is placed in its zone: not every day has 24 hours.
    wall = datetime(year, month, day) + timedelta(hours=hour, minutes=minute)  # noqa: DTZ001
    return wall.replace(tzinfo=LOCAL).astimezone(UTC)
