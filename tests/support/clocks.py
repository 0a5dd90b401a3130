"""A running clock that starts at a given moment."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from meterline.clock import to_us

_MICROSECOND = timedelta(microseconds=1)


class ShiftedClock:
    """Real time with an offset: leases and pauses take their real time."""

    def __init__(self, now: datetime) -> None:
        self._shift_us = to_us(now) - time.time_ns() // 1_000

    def now_us(self) -> int:
        return time.time_ns() // 1_000 + self._shift_us

    def advance(self, delta: timedelta) -> None:
        self._shift_us += delta // _MICROSECOND
