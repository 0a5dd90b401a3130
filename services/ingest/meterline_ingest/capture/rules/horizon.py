"""Refuses events behind the horizon: events there may be deleted, so that no duplicate could be found.

An event is judged by what is the same in every attempt to send it. A UUIDv7 contains the time of its making,
which decides the month that the event is kept with. Events with other ids are kept by their time, and judged
by the time as it was sent: its correction by the clock's skew may differ between attempts.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from meterline_ingest.event.columns import Flags, Ids, Int64s
from meterline_ingest.event.problems import Problems

LEAST_DAYS: Final = 62
"""No newer event is ever behind the horizon."""


def oldest_us(ids: Ids, sent_us: Int64s) -> int:
    """The oldest moment that any of these events is judged by."""
    dated, made_us = _made(ids)
    return int(np.where(dated, made_us, sent_us).min())


def refuse_old(ids: Ids, sent_us: Int64s, kept_since_us: int, problems: Problems) -> None:
    """Adds to `problems` the events that lie before `kept_since_us`."""
    dated, made_us = _made(ids)
    day = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=kept_since_us)).date()
    old = dated & (made_us < kept_since_us)
    problems.flag_where(old, "ID_TOO_OLD", "id", f"a UUIDv7 made since {day}, which events are kept from")
    old = ~dated & (sent_us < kept_since_us)
    problems.flag_where(old, "TIME_TOO_OLD", "time", f"since {day}, which events are kept from")


def _made(ids: Ids) -> tuple[Flags, Int64s]:
    """Which ids are UUIDv7, and when those were made."""
    high, low = ids.view(">u8").reshape(-1, 2).T
    dated = ((high >> np.uint64(12)) & np.uint64(0xF) == 7) & (low >> np.uint64(62) == 2)
    return dated, (high >> np.uint64(16)).astype(np.int64) * 1_000
