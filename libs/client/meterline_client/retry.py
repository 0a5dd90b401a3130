"""When to try again, and what a failure means for a batch."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, auto

import grpc

# A longer RetryInfo is cut to this.

MAX_RETRY_AFTER_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt without an acknowledgement. `retry_after`: seconds the server asked for; `field`, `reason`
    and `message`: what it said (empty when it said nothing)."""

    code: grpc.StatusCode
    message: str = ""
    retry_after: float | None = None
    field: str = ""
    reason: str = ""


class Verdict(Enum):
    """What a failure means for its batch."""

    LATER = auto()
    """It will be accepted once the server is back: the same batch, for as long as it takes."""
    SMALLER = auto()
    """As LATER, but after some attempts in smaller parts, in case the size is what is too much."""
    DOUBTFUL = auto()
    """The server fails, perhaps over this batch: some attempts, then in smaller parts, and in the end a
    single event is given up."""
    NEVER = auto()
    """The server refuses it: smaller parts at once, until the events at fault are found."""


# What the application, the network or an operator will put right. Refused credentials are here: events
# are kept until the key is renewed.
_LATER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_NEVER = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE})


def judge(failure: Failure) -> Verdict:
    """The verdict on one failed attempt."""
    if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Without RetryInfo it may also be a proxy or a server that takes no messages of this size.
        return Verdict.SMALLER if failure.retry_after is None else Verdict.LATER
    if failure.code in _LATER:
        return Verdict.LATER
    return Verdict.NEVER if failure.code in _NEVER else Verdict.DOUBTFUL


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter, in seconds."""

    base: float = 0.1
    longest: float = 30.0

    def ceiling(self, attempts: int) -> float:
        """The longest wait after `attempts` failed attempts, at least 1."""
        # The exponent is bounded because 2.0**1024 is an error.
        return min(self.longest, self.base * 2.0 ** min(attempts - 1, 64))

    def delay(self, attempts: int, retry_after: float | None, rng: random.Random) -> float:
        """A random wait up to the ceiling, so that clients that failed together do not come back together;
        on top of what the server asked for."""
        asked = min(max(retry_after or 0.0, 0.0), MAX_RETRY_AFTER_SECONDS)
        return asked + rng.uniform(0.0, self.ceiling(attempts))
