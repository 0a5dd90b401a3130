"""A circuit breaker: a server that does not answer gets no calls, except for a probe now and then."""

from __future__ import annotations

import random
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    """Calls are made."""
    OPEN = "open"
    """No calls are made until the cooldown is over."""
    HALF_OPEN = "half_open"
    """One call is on its way; its answer decides."""


class Breaker:
    """Opens after `threshold` failures in a row. The cooldown doubles with each probe that fails, up to
    `longest` seconds. Has no clock: callers pass the time. For one thread."""

    def __init__(self, threshold: int, cooldown: float, longest: float, rng: random.Random) -> None:
        self._threshold = threshold
        self._first_cooldown = cooldown
        self._longest = longest
        self._rng = rng
        self._failures = 0
        self._cooldown = cooldown
        self._opens_until = 0.0
        self.state = BreakerState.CLOSED
        self.failing_since: float | None = None
        """When the first of the failures in a row happened; None when the last answer was a good one."""

    def allow(self, now: float) -> bool:
        """Whether a call may be made now. A True while open is the probe: the caller has to make it, and to
        say how it went."""
        if self.state is BreakerState.OPEN and now >= self._opens_until:
            self.state = BreakerState.HALF_OPEN
            return True
        return self.state is BreakerState.CLOSED

    def retry_at(self) -> float | None:
        """When `allow` may become True by itself; None when time alone changes nothing."""
        return self._opens_until if self.state is BreakerState.OPEN else None

    def succeeded(self) -> None:
        """The server answered, be it with a refusal."""
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._cooldown = self._first_cooldown
        self.failing_since = None

    def failed(self, now: float) -> None:
        """The server did not answer, or failed."""
        self._failures += 1
        if self.failing_since is None:
            self.failing_since = now
        if self.state is BreakerState.HALF_OPEN:
            self._cooldown = min(self._cooldown * 2, self._longest)
            self._open(now)
        elif self.state is BreakerState.CLOSED and self._failures >= self._threshold:
            self._open(now)

    def _open(self, now: float) -> None:
        self.state = BreakerState.OPEN
        # Half of it is left to chance, so that many clients do not probe a server in step.
        self._opens_until = now + self._cooldown * self._rng.uniform(0.5, 1.0)
