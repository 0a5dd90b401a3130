"""Calendar days, which have no time zone of their own: `YYYY-MM-DD` in requests and facts."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Final
from zoneinfo import ZoneInfo

# Before 1970 clocks went by the sun of their town, further from UTC than any zone is since.
EARLIEST_DAY: Final = date(1970, 1, 1)
LATEST_DAY: Final = date(9998, 12, 31)

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_day(text: str) -> date:
    """The day that `text` names as `YYYY-MM-DD`. Raises ValueError for any other text, and for a day before
    `EARLIEST_DAY` or after `LATEST_DAY`."""
    if not _DAY.fullmatch(text):
        raise ValueError(f"{text!r} is not written as YYYY-MM-DD")
    day = date.fromisoformat(text)
    if not EARLIEST_DAY <= day <= LATEST_DAY:
        raise ValueError(f"{text} is not a day of the years 1970 to 9998")
    return day


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """The first instant at which the zone's clocks show `day`; where they skip its midnight, or all of it,
    the instant at which they do."""
    return datetime(day.year, day.month, day.day, tzinfo=zone)
