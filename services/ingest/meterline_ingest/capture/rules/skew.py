"""Corrects event times by the skew of the source's clock.

A call contains the time at which it was sent, by the source's clock. The time of receipt minus this is the
skew; network delay and waiting look like skew too, so only what exceeds a tolerance counts. Then `time +
skew` is the event's time by our clock, and never later than the receipt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meterline_ingest.event.columns import Flags, Int64s


@dataclass(frozen=True, slots=True)
class Sending:
    """When a call was sent and received, each by its own clock; `rows` counts its events."""

    rows: int
    received_at_us: int
    sent_at_us: int | None

    def skew_us(self, tolerance_us: int) -> int:
        """What to add to the call's times; 0 within the tolerance."""
        if self.sent_at_us is None:
            return 0
        skew = self.received_at_us - self.sent_at_us
        return skew if abs(skew) > tolerance_us else 0


@dataclass(slots=True)
class Corrected:
    """times_us: corrected; skews_us: one a call; sent_us: as they were sent.

    cut: rows limited to the receipt, whose sent time cannot be computed from the skew; None when there is
        none
    """

    times_us: Int64s
    sent_us: Int64s
    skews_us: list[int]
    cut: Flags | None = None


def correct(times_us: Int64s, calls: Sequence[Sending], tolerance_us: int) -> Corrected:
    """Corrects the times of the events of `calls`, which follow one another."""
    skews = [call.skew_us(tolerance_us) for call in calls]
    if not any(skews):
        return Corrected(times_us, times_us, skews)
    sizes = [call.rows for call in calls]
    skew = np.repeat(np.array(skews, np.int64), sizes)
    latest = np.repeat(np.array([call.received_at_us for call in calls], np.int64), sizes)
    # Times are within +-2^62 (see `rows`) or the wire's own 64 bits: the sum must not wrap around.
    moved = np.clip(times_us, -(1 << 61), 1 << 61) + skew
    cut = (skew != 0) & (moved > latest)
    corrected = np.where(skew != 0, np.minimum(moved, latest), times_us)
    return Corrected(corrected, times_us, skews, cut if cut.any() else None)
