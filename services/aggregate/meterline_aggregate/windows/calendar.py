"""Windows of time. Minutes and hours are UTC's; days and months are those of the tenant's time zone.

Where a local day and a local month begin, `meterline.calendar` says. Everything is whole microseconds since
the Unix epoch.

`local_starts` does for a column what `windows_at` does for one instant; tests hold them together.
"""

from __future__ import annotations

from datetime import date
from enum import IntEnum
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
from meterline.calendar import day_at_us, day_start_us, month_end_us, month_start_us

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


def windows_at(zone: str, us: int) -> Windows:
    """The windows that hold the instant `us` in the IANA time zone `zone`."""
    place = ZoneInfo(zone)
    day = day_at_us(place, us)
    return Windows(
        us - us % MINUTE_US, us - us % HOUR_US, day_start_us(place, day), month_start_us(place, day)
    )


def lineage_end(zone: str, start_us: int) -> int:
    """Where the slice of time ends that `Windows.lineage` begins."""
    place = ZoneInfo(zone)
    day_end = day_start_us(place, day_at_us(place, start_us) + 1)
    return min(start_us - start_us % HOUR_US + HOUR_US, day_end)


def end_of(grain: Grain, zone: str, start_us: int) -> int:
    """Where the window ends that begins at `start_us`."""
    if grain is Grain.MINUTE:
        return start_us + MINUTE_US
    if grain is Grain.HOUR:
        return start_us + HOUR_US
    place = ZoneInfo(zone)
    day = day_at_us(place, start_us)
    return day_start_us(place, day + 1) if grain is Grain.DAY else month_end_us(place, day)


class OddMinuteError(ArithmeticError):
    """A local day begins within a minute, as days did before zones agreed on whole minutes."""


def local_starts(zone: str, minutes_us: Int64s) -> tuple[Int64s, Int64s]:
    """Where the local days and months begin that hold each of these minutes, given by their starts.

    Raises OddMinuteError when a day near them does not begin with a minute.
    """
    place = ZoneInfo(zone)
    days = np.unique(minutes_us // DAY_US) + _EPOCH_ORDINAL
    # No zone is a whole day away from UTC.
    ordinals = sorted({day + shift for day in days.tolist() for shift in (-1, 0, 1)})
    starts = np.array([day_start_us(place, ordinal) for ordinal in ordinals], np.int64)
    if (starts % MINUTE_US).any():
        raise OddMinuteError(zone)
    months = np.array([month_start_us(place, ordinal) for ordinal in ordinals], np.int64)
    index = np.searchsorted(starts, minutes_us, side="right") - 1
    return starts[index], months[index]
