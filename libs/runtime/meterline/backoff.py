"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

# Every pause in use is at its longest by then; without a bound the power would become infinite.
_MOST_DOUBLINGS = 30

Backoff = Callable[[int], float]
"""Seconds to wait after the given number of failures in a row, from 1."""


def exponential(attempt: int, *, first: float, longest: float) -> float:
    """`first` seconds after the first failure, twice as long after each further one, at most `longest`."""
    return min(longest, first * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS))


def with_jitter(seconds: float, draw: random.Random) -> float:
    """Between half of `seconds` and all of it, so that simultaneous failures are not retried together."""
    return seconds * draw.uniform(0.5, 1.0)


def doubling(*, first: float, longest: float) -> Backoff:
    """`exponential` with these bounds."""
    return lambda failures: exponential(failures, first=first, longest=longest)


def constant(seconds: float) -> Backoff:
    """The same pause after every failure."""
    return lambda failures: seconds
