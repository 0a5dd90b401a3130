"""Bounds of what capture accepts. Beyond them a call or an event is refused with the rule's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_ROWS: Final = 1_000
MAX_COLUMN_ROWS: Final = 10_000
# An event type has up to 4; a batch holds those of all its types, each as long as the batch.
MAX_QUANTITY_COLUMNS: Final = 64
MAX_SOURCE: Final = 128
MAX_EVENT_ID: Final = 128
MAX_SUBJECT: Final = 256
MAX_DIMENSION_VALUE: Final = 256


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How far event time may be from the time of receipt, in microseconds."""

    max_age_us: int
    max_ahead_us: int


MAX_QUANTITIES: Final = 4
