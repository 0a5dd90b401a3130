"""What a batch can be."""

from __future__ import annotations

from enum import IntEnum


class BatchOrigin(IntEnum):
    """Where the events of a batch came from. Stored as these numbers, and the same in the API less one."""

    REPORTED = 0
    """A call of capture."""
    IMPORTED = 1
    """Backfilled, of whatever age."""
    CORRECTED = 2
    """Amendments and retractions: its first rows take away what was accepted before."""
    REPLAYED = 3
    """From quarantine, after a fix."""
    TIMED = 4
    """Made by timers that were stopped."""
