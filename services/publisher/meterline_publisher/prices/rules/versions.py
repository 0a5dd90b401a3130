"""Versions of a price: immutable, each in force from its start until the next version's.

A version starts at an instant, the same for all tenants, or on a day: at midnight in each tenant's time zone,
where the tenant's billing periods begin.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from meterline.calendar import Period, instant, start_of_day
from meterline.decimals import exact_sum

from meterline_publisher.prices.rules.prices import Price

# The greatest offsets of time zones behind and ahead of UTC.
_MOST_BEHIND: Final = timedelta(hours=12)
_MOST_AHEAD: Final = timedelta(hours=14)


class VersionError(ValueError):
    """The versions of one price contradict each other, or none of them is in force."""


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """A price that is in force from `effective_from` until the next version.

    `effective_from` is an instant (inclusive, stored in UTC), or a day without a time.
    """

    version: int
    effective_from: datetime | date
    price: Price

    def __post_init__(self) -> None:
        if isinstance(self.effective_from, datetime):
            object.__setattr__(self, "effective_from", instant(self.effective_from))

    def start_in(self, zone: ZoneInfo) -> datetime:
        """The instant from which it is in force for a tenant in this time zone."""
        start = self.effective_from
        return start if isinstance(start, datetime) else start_of_day(start, zone)

    def follows(self, earlier: "PriceVersion") -> bool:
        """Whether it starts after `earlier` in every time zone, from UTC-12 to UTC+14."""
        mine, other = self.effective_from, earlier.effective_from
        if not isinstance(mine, datetime) and not isinstance(other, datetime):
            return other < mine
        return _moved(other, _MOST_BEHIND) < _moved(mine, -_MOST_AHEAD)


@dataclass(frozen=True, slots=True)
class VersionedUsage:
    """The quantity of one line, and the version that prices it."""

    version: PriceVersion
    quantity: Decimal


def _moved(start: datetime | date, by: timedelta) -> datetime:
    """An instant unchanged; for a day, its midnight in UTC moved by `by`."""
    return start if isinstance(start, datetime) else datetime.combine(start, time(), UTC) + by


def timeline(versions: Iterable[PriceVersion]) -> list[PriceVersion]:
    """Return the versions in order; raise `VersionError` unless each starts after the one before it in every
    time zone.

    Numbers may be missing, since versions may have been withdrawn.
    """
    ordered = sorted(versions, key=lambda version: version.version)
    for earlier, later in pairwise(ordered):
        if earlier.version == later.version:
            raise VersionError(f"version {later.version} is given twice")
        if not later.follows(earlier):
            raise VersionError(f"version {later.version} takes effect no later than {earlier.version}")
    return ordered


def pinned(versions: Iterable[PriceVersion], period_start: datetime, zone: ZoneInfo) -> PriceVersion:
    """Return the version in force in `zone` at the period's start, which prices the whole period.

    Raise `VersionError` if none is in force then.
    """
    return _in_force(timeline(versions), period_start, zone)


def split(
    versions: Iterable[PriceVersion],
    period: Period,
    usage: Iterable[tuple[datetime, Decimal]],
    zone: ZoneInfo,
) -> list[VersionedUsage]:
    """Divide the usage of a period, as (instant, quantity), among the versions in force in `zone` at each
    instant.

    The parts are ordered by version, one for each version that has usage; each is rated as its own line, so
    its tiers start at zero. Without usage there is one part of quantity 0, of the version at the period's
    start, so that amounts due at zero are charged once. Usage outside the period is a `ValueError`, usage
    before the first version a `VersionError`.
    """
    ordered = timeline(versions)
    parts: dict[int, list[Decimal]] = {}
    for at, quantity in usage:
        if at not in period:
            raise ValueError(f"usage at {at.isoformat()} lies outside the period")
        parts.setdefault(_index(ordered, at, zone), []).append(quantity)
    totals = [VersionedUsage(ordered[index], exact_sum(parts[index])) for index in sorted(parts)]
    used = [part for part in totals if part.quantity]
    return used or [VersionedUsage(_in_force(ordered, period.start, zone), Decimal(0))]


def _in_force(ordered: Sequence[PriceVersion], at: datetime, zone: ZoneInfo) -> PriceVersion:
    return ordered[_index(ordered, at, zone)]


def _index(ordered: Sequence[PriceVersion], at: datetime, zone: ZoneInfo) -> int:
    index = bisect_right(ordered, instant(at), key=lambda version: version.start_in(zone)) - 1
    if index < 0:
        raise VersionError(f"no version is in force at {at.isoformat()}")
    return index
