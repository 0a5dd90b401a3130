"""Windows of time. Minutes and hours are in UTC; days and months are in the tenant's time zone.

`meterline.calendar` computes where a local day and a local month begin. All times are whole microseconds
since the Unix epoch.

`local_starts` does for a column what `windows_at` does for one instant; tests compare them.
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
    """The length of a window, with its number in the API and in tables."""

    MINUTE = 1
    HOUR = 2
    DAY = 3
    MONTH = 4


class Windows(NamedTuple):
    """The starts of the windows that contain an instant."""

    minute: int
    hour: int
    day: int
    month: int

    @property
    def lineage(self) -> int:
        """The start of the hour, or of the local day when it begins within that hour.

        Contributions are stored by these slices. Each day or month of any zone consists of whole slices, so
        their contributions add up to it exactly, also in zones half an hour off.
        """
        return max(self.hour, self.day)


def windows_at(zone: str, us: int) -> Windows:
    """The windows that contain the instant `us` in the IANA time zone `zone`."""
    place = ZoneInfo(zone)
    day = day_at_us(place, us)
    return Windows(
        us - us % MINUTE_US, us - us % HOUR_US, day_start_us(place, day), month_start_us(place, day)
    )


def lineage_end(zone: str, start_us: int) -> int:
    """The end of the slice of time that begins at `start_us`; see `Windows.lineage`."""
    place = ZoneInfo(zone)
    day_end = day_start_us(place, day_at_us(place, start_us) + 1)
    return min(start_us - start_us % HOUR_US + HOUR_US, day_end)


def end_of(grain: Grain, zone: str, start_us: int) -> int:
    """The end of the window that begins at `start_us`."""
    if grain is Grain.MINUTE:
        return start_us + MINUTE_US
    if grain is Grain.HOUR:
        return start_us + HOUR_US
    place = ZoneInfo(zone)
    day = day_at_us(place, start_us)
    return day_start_us(place, day + 1) if grain is Grain.DAY else month_end_us(place, day)


class OddMinuteError(ArithmeticError):
    """A local day does not begin with a whole minute, as in the past before zones had whole minutes."""


def local_starts(zone: str, minutes_us: Int64s) -> tuple[Int64s, Int64s]:
    """The starts of the local days and months that contain each of these minutes, given by their starts.

    Raises OddMinuteError when a day near them does not begin with a whole minute.
    """
    place = ZoneInfo(zone)
    days = np.unique(minutes_us // DAY_US) + _EPOCH_ORDINAL
    # No zone is a whole day off UTC, so the days next to it suffice.
    ordinals = sorted({day + shift for day in days.tolist() for shift in (-1, 0, 1)})
    starts = np.array([day_start_us(place, ordinal) for ordinal in ordinals], np.int64)
    if (starts % MINUTE_US).any():
        raise OddMinuteError(zone)
    months = np.array([month_start_us(place, ordinal) for ordinal in ordinals], np.int64)
    index = np.searchsorted(starts, minutes_us, side="right") - 1
    return starts[index], months[index]
