"""Local days and months: when they begin in any time zone, and the periods that they make.

A local day begins at the first instant at which the zone's clocks show its date, and lasts until the next
one begins: 23 or 25 hours where clocks change, also in zones that skip midnight. Where clocks go back over
midnight and show a date for the second time, that date has ended. A month begins with its first day.

Instants are aware datetimes, or whole microseconds since the Unix epoch in functions that end in `_us`.
Days are dates, or proleptic ordinals (`date.toordinal`) in these. Times of the years 2 to 9998 are in range.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from meterline.clock import to_datetime, to_us

# Before 1970 clocks went by the sun of their town, further from UTC than any zone is since.
EARLIEST_DAY: Final = date(1970, 1, 1)
LATEST_DAY: Final = date(9998, 12, 31)

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MICROSECOND: Final = timedelta(microseconds=1)


def is_zone(zone: str) -> bool:
    """Whether this process knows the rules of an IANA time zone."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        return False
    return True


def parse_day(text: str) -> date:
    """The day that `text` names as `YYYY-MM-DD`. Raises ValueError for any other text, and for a day before
    `EARLIEST_DAY` or after `LATEST_DAY`."""
    if not _DAY.fullmatch(text):
        raise ValueError(f"{text!r} is not written as YYYY-MM-DD")
    day = date.fromisoformat(text)
    if not EARLIEST_DAY <= day <= LATEST_DAY:
        raise ValueError(f"{text} is not a day of the years 1970 to 9998")
    return day


def instant(at: datetime) -> datetime:
    """The same instant in UTC. Raises ValueError for a time without a zone.

    Two times of one zone subtract as wall clocks do, so a month with a change to summer time would come
    out an hour too long. In UTC the difference is the real one.
    """
    if at.utcoffset() is None:
        raise ValueError(f"{at.isoformat()} has no time zone")
    return at.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """The time from `start` (in it) to `end` (not in it), kept in UTC. Raises ValueError if it is empty."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", instant(self.start))
        object.__setattr__(self, "end", instant(self.end))
        if self.start >= self.end:
            raise ValueError(f"a period from {self.start.isoformat()} to {self.end.isoformat()} is empty")

    def __contains__(self, at: datetime) -> bool:
        return self.start <= instant(at) < self.end

    def share(self, since: datetime, until: datetime) -> Fraction:
        """Which part of the period lies in [since, until), from 0 to 1, to the microsecond.

        Both must lie within the period, its end included. Raises ValueError otherwise.
        """
        first, last = instant(since), instant(until)
        if not self.start <= first <= last <= self.end:
            raise ValueError(f"{first.isoformat()} to {last.isoformat()} does not lie in the period")
        return Fraction((last - first) // _MICROSECOND, (self.end - self.start) // _MICROSECOND)


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """The first instant at which the zone's clocks show `day`, in UTC; where they skip its midnight, or all
    of it, the instant at which they do."""
    return to_datetime(day_start_us(zone, day.toordinal()))


def day_of(at: datetime, zone: ZoneInfo) -> date:
    """The local day that holds an instant."""
    return date.fromordinal(day_at_us(zone, to_us(at)))


def month_of(at: datetime, zone: ZoneInfo) -> Period:
    """The local month that holds an instant; months follow each other without a gap or an overlap."""
    first = day_of(at, zone).replace(day=1)
    return Period(start_of_day(first, zone), start_of_day(_next_month(first), zone))


def month_before(period: Period, zone: ZoneInfo) -> Period:
    """The month of `zone` that ends where `period` begins."""
    return month_of(period.start - _MICROSECOND, zone)


@lru_cache(maxsize=1 << 16)
def day_start_us(zone: ZoneInfo, ordinal: int) -> int:
    """Where a local day begins."""
    # In a gap this is the instant of the change, and of two midnights it is the first (fold=0).
    return to_us(datetime.fromordinal(ordinal).replace(tzinfo=zone))


@lru_cache(maxsize=1 << 16)
def month_start_us(zone: ZoneInfo, ordinal: int) -> int:
    """Where the month of a local day begins."""
    return day_start_us(zone, date.fromordinal(ordinal).replace(day=1).toordinal())


def month_end_us(zone: ZoneInfo, ordinal: int) -> int:
    """Where the month of a local day ends."""
    return day_start_us(zone, _next_month(date.fromordinal(ordinal)).toordinal())


def day_at_us(zone: ZoneInfo, us: int) -> int:
    """The local day that holds an instant."""
    ordinal = to_datetime(us).astimezone(zone).toordinal()
    # Clocks that go back over midnight show a date for the second time; its next day has begun by then.
    return ordinal + 1 if day_start_us(zone, ordinal + 1) <= us else ordinal


def _next_month(day: date) -> date:
    # From the first day of any month 31 days on is the next one.
    return date.fromordinal(day.replace(day=1).toordinal() + 31).replace(day=1)
