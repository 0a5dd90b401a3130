"""A small world for validation: two tenants that take events, one that does not, and three types."""

from __future__ import annotations

from meterline_ingest.domain.event_types import Dimension, EventType, Quantity
from meterline_ingest.domain.limits import TimeLimits
from meterline_ingest.domain.type_book import TypeBook

NOW_US = 1_795_000_000_000_000  # November 2026
LIMITS = TimeLimits(35 * 86_400_000_000, 300_000_000)
TENANTS = {"acme": 1, "bolt": 2, "asleep": None}
_COMMON = {
    "plain": EventType("plain", (Quantity("units", 0, False, True),), (Dimension("region", False),), False),
    "two": EventType(
        "two",
        (Quantity("bytes", 3, False, False), Quantity("units", 2, False, False)),
        (Dimension("region", False), Dimension("tier", False)),
        False,
    ),
    "strict": EventType("strict", (Quantity("units", 0, True, False),), (Dimension("region", True),), True),
}
TYPES = TypeBook(_COMMON)
