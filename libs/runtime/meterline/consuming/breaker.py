"""A breaker before the dead letters: after a bad deploy a consumer stops, and does not bury everything.

Pure: it knows no clock, no broker and no table.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    """Messages are handled, and what is poison is buried."""
    OPEN = "open"
    """Nothing is handled until the cooldown is over."""
    HALF_OPEN = "half_open"
    """Messages are tried one at a time; the first clear outcome decides."""


@dataclass(frozen=True, slots=True)
class BurialRules:
    """When a consumer buries messages, and when it stops consuming instead.

    patience: seconds after which a message that only ever failed or waited is given up. Shorter than the
        broker's retention, after which the broker drops the message silently
    longest_wait_for_parts: seconds for which a message may wait as a whole because some of its parts have to,
        and between two tries of these once it was taken apart
    window: so many distinct messages are looked back on
    percent: more poison than this among a window of messages opens the breaker; 100 never does
    cooldown: seconds until the first try; twice as many after each that fails
    longest_cooldown: but never more than these
    """

    patience: float = 86_400.0
    window: int = 20
    percent: int = 90
    cooldown: float = 5.0
    longest_cooldown: float = 300.0
    longest_wait_for_parts: float = 30.0

    @property
    def patience_with_parts(self) -> float:
        return min(self.longest_wait_for_parts, self.patience)


class Breaker:
    """Opens when more than `percent` of the last `window` messages are poison. Callers pass the time.

    Those that came before count as good, so that it opens as soon as the outcome of a full window is clear.
    The window outlives an opening: as long as the poison goes on, a single good message lets no more than
    its own share of it be buried.
    """

    def __init__(self, rules: BurialRules) -> None:
        self._rules = rules
        # By arrival; whether it was poison. A message that comes again keeps its place.
        self._recent: dict[uuid.UUID, bool] = {}
        self._opened_at = 0.0
        self.cooldown = rules.cooldown
        self.state = BreakerState.CLOSED

    def handled(self, message_id: uuid.UUID) -> None:
        """A message was applied. Ignored while open: the message was already under way."""
        if self.state is BreakerState.OPEN:
            return
        self._note(message_id, poison=False)
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.CLOSED
            self.cooldown = self._rules.cooldown

    def may_bury(self, message_id: uuid.UUID, now: float) -> bool:
        """Notes a poison message. False: the breaker is open; the message must be kept like all others."""
        if self.state is BreakerState.OPEN:
            return False
        self._note(message_id, poison=True)
        if self.state is BreakerState.HALF_OPEN:
            self.cooldown = min(self.cooldown * 2, self._rules.longest_cooldown)
            self._open(now)
        elif sum(self._recent.values()) * 100 > self._rules.percent * self._rules.window:
            self._open(now)
        return self.state is BreakerState.CLOSED

    def cooldown_left(self, now: float) -> float:
        """Seconds until one message may be tried; 0 when it is not open."""
        if self.state is not BreakerState.OPEN:
            return 0.0
        # Never more than the cooldown; `opened_at + cooldown - now` could be, by rounding.
        return max(0.0, self.cooldown - (now - self._opened_at))

    def try_one(self) -> None:
        """The cooldown is over: the next clear outcome decides."""
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.HALF_OPEN

    def _open(self, now: float) -> None:
        self.state = BreakerState.OPEN
        self._opened_at = now

    def _note(self, message_id: uuid.UUID, *, poison: bool) -> None:
        self._recent[message_id] = poison
        while len(self._recent) > self._rules.window:
            del self._recent[next(iter(self._recent))]
