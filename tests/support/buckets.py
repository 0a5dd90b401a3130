"""A plain implementation of the SQL statement that exchanges tokens, with a manual clock."""

from __future__ import annotations

from meterline_ingest.rate_limits.rules.lease import Ask, Grant
from meterline_ingest.rate_limits.rules.limits import MILLIONTHS, Limits


class Bucket:
    """The token bucket of one tenant. Moments are in microseconds."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.level = limits.burst * MILLIONTHS
        self.filled_at = 0

    def exchange(self, ask: Ask, moment: int) -> Grant:
        elapsed = max(0, moment - self.filled_at)
        back = ask.back if ask.limits == self.limits else 0
        filled = self.level + back * MILLIONTHS + elapsed * self.limits.events_per_second
        level = min(self.limits.burst * MILLIONTHS, filled)
        whole = level // MILLIONTHS
        tokens = ask.need + max(0, min(ask.ahead, whole - ask.need)) if level >= MILLIONTHS else 0
        self.level, self.filled_at = level - tokens * MILLIONTHS, moment
        return Grant(tokens, self.level, self.limits.events_per_second)
