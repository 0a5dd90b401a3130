"""The only source of time, so that tests can control it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Returns the time in whole microseconds since the Unix epoch."""

    def now_us(self) -> int: ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000


class ManualClock:
    """A clock that moves only by calls of its methods."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance(self, delta: timedelta) -> None:
        self._now_us += delta // timedelta(microseconds=1)


def to_datetime(us: int) -> datetime:
    """Exact, unlike `datetime.fromtimestamp`, which goes through a float."""
    return EPOCH + timedelta(microseconds=us)


def to_us(moment: datetime) -> int:
    """`moment` must be aware."""
    return (moment - EPOCH) // timedelta(microseconds=1)
