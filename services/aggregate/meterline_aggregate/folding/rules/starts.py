"""Computes the starts of the windows that contain the minutes of some rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meterline_aggregate.folding.rules.layout import Layout
from meterline_aggregate.windows.calendar import MINUTE_US, Grain

Int64s = npt.NDArray[np.int64]


class Starts:
    """Starts in minutes after the earliest of them; `span` exceeds every one."""

    def __init__(self, layout: Layout, series: Int64s, minutes: Int64s) -> None:
        """Raises OddMinuteError."""
        days, months = layout.local_starts(series, minutes)
        hours = minutes - minutes % 60
        # In zones half an hour off, a month may begin within the hour, so neither minimum suffices.
        self._base = min(int(hours.min()), int(months.min())) if len(minutes) else 0
        self.span = int(minutes.max()) - self._base + 1 if len(minutes) else 1
        self._of = {
            Grain.MINUTE: minutes - self._base,
            Grain.HOUR: hours - self._base,
            Grain.DAY: days - self._base,
            Grain.MONTH: months - self._base,
        }
        # See `calendar.Windows.lineage`.
        self.lineage: Int64s = np.maximum(hours, days) - self._base

    def of(self, grain: Grain) -> Int64s:
        return self._of[grain]

    def microseconds(self, starts: Int64s) -> Int64s:
        """Starts in microseconds since the Unix epoch."""
        return (starts + self._base) * MINUTE_US
