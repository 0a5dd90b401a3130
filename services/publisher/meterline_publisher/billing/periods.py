"""Half-open stretches of real time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

_MICROSECOND = timedelta(microseconds=1)


def instant(at: datetime) -> datetime:
    """Return the same instant in UTC; raise `ValueError` for a time without a zone.

    Two times of one zone subtract as wall clocks do, so a month with a change to summer time would come
    out an hour too long. In UTC the difference is the real one.
    """
    if at.utcoffset() is None:
        raise ValueError(f"{at.isoformat()} has no time zone")
    return at.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """The time from `start` (in it) to `end` (not in it), kept in UTC; `ValueError` if it would be empty."""

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
        """Return which part of the period lies in [since, until), from 0 to 1, to the microsecond.

        Both must lie within the period, its end included; a `ValueError` otherwise.
        """
        first, last = instant(since), instant(until)
        if not self.start <= first <= last <= self.end:
            raise ValueError(f"{first.isoformat()} to {last.isoformat()} does not lie in the period")
        return Fraction((last - first) // _MICROSECOND, (self.end - self.start) // _MICROSECOND)
