"""The bound that ADR 9 states for what a tenant gets in, in the words of tests."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from meterline_ingest.rate_limits.rules.limits import MILLIONTHS, Limits


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that got in. Moments in microseconds: when it was sent, and when it was let in."""

    began: int
    ended: int
    events: int


def allowance(limits: Limits, microseconds: int, *, replicas: int, largest: int) -> Fraction:
    """How many events may get in within so long a time, when no call has more than `largest`.

    microseconds: also what tokens are under way
    """
    filled = Fraction(limits.events_per_second * microseconds, MILLIONTHS)
    return filled + limits.burst + replicas * limits.block + largest - 1


def excess(
    calls: list[Admitted], limits: Limits, *, replicas: int, largest: int, under_way: int = 0
) -> Fraction:
    """By how much the worst interval there is exceeds the bound; negative where the bound holds.

    under_way: microseconds that tokens may be out for calls that then do not use them
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
