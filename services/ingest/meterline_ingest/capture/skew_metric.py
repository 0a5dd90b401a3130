"""Estimates the skew of sources' clocks from their calls, as a metric."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from meterline.telemetry import metrics

from meterline_ingest.capture.call import Submission
from meterline_ingest.event.batches import BatchOrigin

# A metric with a label for each source must stay small: only the latest sources are shown.
MAX_SOURCES: Final = 1_000
_CALLS: Final = 64


class Skews:
    """One for each process."""

    def __init__(self, tolerance: timedelta) -> None:
        """`tolerance`: smaller differences count as network delay, not as skew."""
        self.tolerance_us = tolerance // timedelta(microseconds=1)
        self._calls: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()

    def observe(self, submissions: Iterable[Submission]) -> None:
        """Records when calls were sent and received."""
        for submission in submissions:
            origin = submission.origin
            if origin.sent_at_us is None or origin.kind is BatchOrigin.REPLAYED:
                continue
            source = submission.tenant_id, origin.source
            calls = self._calls.get(source)
            if calls is None:
                calls = self._calls[source] = deque(maxlen=_CALLS)
                if len(self._calls) > MAX_SOURCES:
                    metrics.CLOCK_SKEW_SECONDS.remove(*self._calls.popitem(last=False)[0])
            else:
                self._calls.move_to_end(source)
            calls.append(origin.received_at_us - origin.sent_at_us)
            metrics.CLOCK_SKEW_SECONDS.labels(*source).set(_estimate(calls) / 1e6)

    def estimate_us(self, tenant_id: str, source: str) -> int | None:
        """How far our clock is ahead of the source's; None for a source without recent calls."""
        calls = self._calls.get((tenant_id, source))
        return _estimate(calls) if calls else None


def _estimate(calls: Iterable[int]) -> int:
    """The least of the latest differences: each is the skew plus a network delay, which is never negative, so
    the quickest call gives the best estimate."""
    return min(calls)
