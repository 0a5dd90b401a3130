"""The bound of ADR 9 on the admitted events of a tenant."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from meterline_ingest.rate_limits.rules.limits import MILLIONTHS, Limits


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted call. Moments in microseconds: when it was sent, and when it was admitted."""

    began: int
    ended: int
    events: int


def allowance(limits: Limits, microseconds: int, *, replicas: int, largest: int) -> Fraction:
    """The most events that may be admitted within a time, if no call has more than `largest`.

    microseconds: includes the time for which tokens may be held unused
    """
    filled = Fraction(limits.events_per_second * microseconds, MILLIONTHS)
    return filled + limits.burst + replicas * limits.block + largest - 1


def excess(
    calls: list[Admitted], limits: Limits, *, replicas: int, largest: int, under_way: int = 0
) -> Fraction:
    """The largest excess over the bound of any interval; negative if the bound holds.

    under_way: microseconds for which calls may hold tokens that they do not use
    """
    worst = Fraction(-limits.burst)
    for start in {call.began for call in calls}:
        total = 0
        for call in sorted(calls, key=lambda each: each.ended):
            if call.began >= start:
                total += call.events
                room = allowance(limits, call.ended - start + under_way, replicas=replicas, largest=largest)
                worst = max(worst, total - room)
    return worst
