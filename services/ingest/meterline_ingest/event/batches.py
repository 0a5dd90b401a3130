"""The origin of a batch."""

from __future__ import annotations

from enum import IntEnum


class BatchOrigin(IntEnum):
    """Where the events of a batch came from. Stored as these numbers; the API has the same less one."""

    REPORTED = 0
    """A call of capture."""
    IMPORTED = 1
    """Backfilled, of any age."""
    CORRECTED = 2
    """Amendments and retractions: its first rows retract what was accepted before."""
    REPLAYED = 3
    """From quarantine, after a fix."""
    TIMED = 4
    """Made by stopped timers."""
