"""Faults on demand: rules that make matching calls fail in Stripe's ways, reproducibly.

Rules are tried in the order in which they were added; the first that fires decides. Each rule draws from a
generator of its own, so with one client the same seed gives the same faults. They live in memory: a
restarted double has none.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from . import errors
from .errors import ApiError
from .ids import new_id


class Kind(StrEnum):
    """What happens to a call; see README.md for what the caller can conclude from each."""

    RATE_LIMIT_429 = "rate_limit_429"
    LOCK_TIMEOUT = "lock_timeout"
    ERROR_500 = "error_500"
    ERROR_500_SAVED = "error_500_saved"
    TIMEOUT_BEFORE = "timeout_before"
    TIMEOUT_AFTER_ACCEPT = "timeout_after_accept"
    DUPLICATE_400 = "duplicate_400"


_REFUSALS = {
    Kind.RATE_LIMIT_429: errors.rate_limited,
    Kind.LOCK_TIMEOUT: errors.lock_timeout,
    Kind.ERROR_500: errors.server_error,
}


def refusal(kind: Kind) -> ApiError | None:
    """The error that this kind answers at once, before anything is looked at or remembered."""
    make = _REFUSALS.get(kind)
    return make() if make else None


@dataclass(slots=True)
class FaultRule:
    """Fires for calls under `path_prefix`: the `next_n` first ones, or each with `probability`."""

    path_prefix: str
    kind: Kind
    method: str | None = None
    probability: float = 1.0
    next_n: int | None = None
    seed: int = 0
    hold_seconds: float = 0.0
    id: str = field(default_factory=lambda: new_id("fault", 12))
    fired: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def fires(self, method: str, path: str) -> bool:
        """Decide for one call, and count it."""
        if not path.startswith(self.path_prefix) or self.method not in (None, method):
            return False
        if self.next_n is not None and self.fired >= self.next_n:
            return False
        if self._random.random() >= self.probability:
            return False
        self.fired += 1
        return True


class FaultBook:
    """The rules in force."""

    def __init__(self) -> None:
        self._rules: list[FaultRule] = []

    def __iter__(self) -> Iterator[FaultRule]:
        return iter(self._rules)

    def add(self, rule: FaultRule) -> None:
        self._rules.append(rule)

    def clear(self) -> None:
        self._rules.clear()

    def pick(self, method: str, path: str) -> FaultRule | None:
        """The rule that fires for this call, if any."""
        return next((rule for rule in self._rules if rule.fires(method, path)), None)
