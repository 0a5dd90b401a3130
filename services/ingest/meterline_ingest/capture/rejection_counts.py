"""Counts rejected events by tenant, source and reason, and logs those that are not kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final

from meterline.telemetry import metrics
from meterline.telemetry.logging import logger

log = logger()

# Callers choose the names of sources, so the number of labels must be bounded.
MAX_LABELS: Final = 1_000
OTHER: Final = "other"
# Seconds between log lines of one refusal.
QUIET_SECONDS: Final = 60.0

Labels = tuple[str, str, str]
"""Tenant, source and reason."""


class Refusal(StrEnum):
    """Why a rejected event is not kept."""

    FULL = "the tenant's quarantine is full"
    TOO_MUCH = "more than one call may leave there"
    TOO_LONG = "larger than any event that could be accepted"
    NO_KEY = "the tenant's keys are destroyed or damaged"


class RejectionCounts:
    """One for each process."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        """`timer` returns seconds since any fixed moment."""
        self._timer = timer
        self._known: set[Labels] = set()
        self._unlogged: Counter[Refusal] = Counter()
        self._said_at: dict[Refusal, float] = {}

    def kept(self, events: Iterable[Labels]) -> None:
        for labels, count in Counter(events).items():
            metrics.QUARANTINED.labels(*self._bounded(labels)).inc(count)

    def refused(self, why: Refusal, events: Iterable[Labels]) -> None:
        """Also logs them, at most once a minute for each `why`."""
        counts = Counter(events)
        if not counts:
            return
        for labels, count in counts.items():
            metrics.QUARANTINE_REFUSED.labels(*self._bounded(labels)).inc(count)
        self._unlogged[why] += counts.total()
        now = self._timer()
        if now - self._said_at.get(why, float("-inf")) >= QUIET_SECONDS:
            tenants = sorted({tenant for tenant, _, _ in counts})[:10]
            log.warning("quarantine.refused", why=str(why), events=self._unlogged.pop(why), tenants=tenants)
            self._said_at[why] = now

    def _bounded(self, labels: Labels) -> Labels:
        """Reasons are a closed list, so labels keep them even beyond the bound."""
        if labels not in self._known:
            if len(self._known) >= MAX_LABELS:
                return OTHER, OTHER, labels[2]
            self._known.add(labels)
        return labels
