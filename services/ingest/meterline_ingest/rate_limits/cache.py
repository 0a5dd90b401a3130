"""Limits, from memory where possible."""

from __future__ import annotations

import time
from collections.abc import Callable

from meterline.remembered.book import CachedBook, Source

from meterline_ingest.rate_limits.rules.limits import LimitBook

# After this long, the other replicas see a limit that was put on one.
LIMITS_SECONDS = 2.0


class LimitRegistry(CachedBook[LimitBook]):
    """All limits."""

    def __init__(self, repository: Source[LimitBook], now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(repository, LimitBook(), max_age=LIMITS_SECONDS, now=now)
