"""How far the clocks of sources are off, estimated from their calls and shown as a metric."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from meterline.telemetry import metrics

from meterline_ingest.capture.call import Submission
from meterline_ingest.event.batches import BatchOrigin

# A metric with a label for each source must stay small: those heard of last are shown.
MAX_SOURCES: Final = 1_000
_CALLS: Final = 64


class Skews:
    """One for each process."""

    def __init__(self, tolerance: timedelta) -> None:
        """`tolerance`: smaller differences are the way of a call, and no skew."""
        self.tolerance_us = tolerance // timedelta(microseconds=1)
        self._calls: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()

    def observe(self, submissions: Iterable[Submission]) -> None:
        """Takes note of when calls were sent and received."""
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
        """How much later our clock is than the source's; None for a source not heard of lately."""
        calls = self._calls.get((tenant_id, source))
        return _estimate(calls) if calls else None


def _estimate(calls: Iterable[int]) -> int:
    """The least of the latest differences: each is the skew and the way of a call, which is never negative,
    so that of the quickest call tells the skew best."""
    return min(calls)
