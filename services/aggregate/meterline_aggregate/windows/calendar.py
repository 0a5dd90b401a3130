"""Windows of time. Minutes and hours are UTC's; days and months are those of the tenant's time zone.

A local day begins at the first instant at which the zone's clocks show its date, and lasts until the next
one begins: 23 or 25 hours where clocks change, also in zones that skip midnight. A month begins with its
first day. Everything is whole microseconds since the Unix epoch.

`local_starts` does for a column what `windows_at` does for one instant; tests hold them together.
"""

from __future__ import annotations

from datetime import date, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
from meterline.clock import to_datetime, to_us

Int64s = npt.NDArray[np.int64]

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


class Grain(IntEnum):
    """The length of a window. The numbers are those of the API and of the tables."""

    MINUTE = 1
    HOUR = 2
    DAY = 3
    MONTH = 4


class Windows(NamedTuple):
    """Where the windows begin that hold an instant."""

    minute: int
    hour: int
    day: int
    month: int

    @property
    def lineage(self) -> int:
        """Where the hour begins, or the local day when it begins within the hour.

        A day or month of any zone is made of whole slices of this kind, so that contributions kept by
        them add up to it exactly, also where the zone is half an hour off.
        """
        return max(self.hour, self.day)


def is_zone(zone: str) -> bool:
    """Whether this process knows the rules of an IANA time zone."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        return False
    return True


@lru_cache(maxsize=1 << 16)
def _start_of_day(zone: str, ordinal: int) -> int:
    day = datetime.fromordinal(ordinal)
    # In a gap this is the instant of the change, and of two midnights it is the first (fold=0).
    return to_us(day.replace(tzinfo=ZoneInfo(zone)))


@lru_cache(maxsize=1 << 16)
def _start_of_month(zone: str, ordinal: int) -> int:
    return _start_of_day(zone, date.fromordinal(ordinal).replace(day=1).toordinal())


def _day_at(zone: str, us: int) -> int:
    """The local day that holds an instant, as a proleptic ordinal."""
    ordinal = to_datetime(us).astimezone(ZoneInfo(zone)).toordinal()
    # Clocks that go back over midnight show a date for the second time; its next day has begun by then.
    return ordinal + 1 if _start_of_day(zone, ordinal + 1) <= us else ordinal


def windows_at(zone: str, us: int) -> Windows:
    """The windows that hold the instant `us` in the IANA time zone `zone`."""
    day = _day_at(zone, us)
    return Windows(
        us - us % MINUTE_US, us - us % HOUR_US, _start_of_day(zone, day), _start_of_month(zone, day)
    )


def lineage_end(zone: str, start_us: int) -> int:
    """Where the slice of time ends that `Windows.lineage` begins."""
    return min(start_us - start_us % HOUR_US + HOUR_US, _start_of_day(zone, _day_at(zone, start_us) + 1))


def end_of(grain: Grain, zone: str, start_us: int) -> int:
    """Where the window ends that begins at `start_us`."""
    if grain is Grain.MINUTE:
        return start_us + MINUTE_US
    if grain is Grain.HOUR:
        return start_us + HOUR_US
    day = _day_at(zone, start_us)
    if grain is Grain.DAY:
        return _start_of_day(zone, day + 1)
    # From the first day of any month 31 days on is the next one.
    return _start_of_month(zone, date.fromordinal(day).replace(day=1).toordinal() + 31)


class OddMinuteError(ArithmeticError):
    """A local day begins within a minute, as days did before zones agreed on whole minutes."""


def local_starts(zone: str, minutes_us: Int64s) -> tuple[Int64s, Int64s]:
    """Where the local days and months begin that hold each of these minutes, given by their starts.

    Raises OddMinuteError when a day near them does not begin with a minute.
    """
    days = np.unique(minutes_us // DAY_US) + _EPOCH_ORDINAL
    # No zone is a whole day away from UTC.
    ordinals = sorted({day + shift for day in days.tolist() for shift in (-1, 0, 1)})
    starts = np.array([_start_of_day(zone, ordinal) for ordinal in ordinals], np.int64)
    if (starts % MINUTE_US).any():
        raise OddMinuteError(zone)
    months = np.array([_start_of_month(zone, ordinal) for ordinal in ordinals], np.int64)
    index = np.searchsorted(starts, minutes_us, side="right") - 1
    return starts[index], months[index]
