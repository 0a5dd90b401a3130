"""Versions of a price: immutable, each in force from its own start until the next one's."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

from meterline_publisher.domain.money import exact_sum
from meterline_publisher.domain.periods import Period, instant
from meterline_publisher.domain.prices import Price


class VersionError(ValueError):
    """The versions of one price contradict each other, or none of them is in force."""


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """A price as it is in force from `effective_from` (included, kept in UTC) until the next version."""

    version: int
    effective_from: datetime
    price: Price

    def __post_init__(self) -> None:
        object.__setattr__(self, "effective_from", instant(self.effective_from))


@dataclass(frozen=True, slots=True)
class VersionedUsage:
    """The quantity of one line, and the version that prices it."""

    version: PriceVersion
    quantity: Decimal


def timeline(versions: Iterable[PriceVersion]) -> list[PriceVersion]:
    """Return the versions in order; raise `VersionError` unless each takes effect after the one before it.

    Numbers may be missing: versions reach a replica in any order.
    """
    ordered = sorted(versions, key=lambda version: version.version)
    for earlier, later in pairwise(ordered):
        if earlier.version == later.version:
            raise VersionError(f"version {later.version} is given twice")
        if earlier.effective_from >= later.effective_from:
            raise VersionError(f"version {later.version} takes effect no later than {earlier.version}")
    return ordered


def pinned(versions: Iterable[PriceVersion], period_start: datetime) -> PriceVersion:
    """Return the version in force at the period's start, which prices all of the period.

    Raise `VersionError` if none is in force by then.
    """
    return _in_force(timeline(versions), period_start)


def split(
    versions: Iterable[PriceVersion], period: Period, usage: Iterable[tuple[datetime, Decimal]]
) -> list[VersionedUsage]:
    """Divide the usage of a period, as (instant, quantity), among the versions in force at each instant.

    The parts come in order of versions, one for each version that has usage; each is rated as a line of its
    own, so its tiers count from zero. Without any usage there is one part of quantity 0, of the version at
    the start, so that what is due at zero is still due once. Usage outside the period is a `ValueError`,
    usage before the first version a `VersionError`.
    """
    ordered = timeline(versions)
    parts: dict[int, list[Decimal]] = {}
    for at, quantity in usage:
        if at not in period:
            raise ValueError(f"usage at {at.isoformat()} lies outside the period")
        parts.setdefault(_index(ordered, at), []).append(quantity)
    totals = [VersionedUsage(ordered[index], exact_sum(parts[index])) for index in sorted(parts)]
    used = [part for part in totals if part.quantity]
    return used or [VersionedUsage(_in_force(ordered, period.start), Decimal(0))]


def _in_force(ordered: Sequence[PriceVersion], at: datetime) -> PriceVersion:
    return ordered[_index(ordered, at)]


def _index(ordered: Sequence[PriceVersion], at: datetime) -> int:
    index = bisect_right(ordered, instant(at), key=lambda version: version.effective_from) - 1
    if index < 0:
        raise VersionError(f"no version is in force at {at.isoformat()}")
    return index
