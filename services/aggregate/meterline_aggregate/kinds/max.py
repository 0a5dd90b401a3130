"""MAX: the greatest value of a quantity."""

from __future__ import annotations

from meterline_aggregate.kinds.kind import Aggregation, Kind, Measured, number_of
from meterline_aggregate.kinds.slots.events import EVENTS
from meterline_aggregate.kinds.slots.highest import HIGHEST

MAX = Kind(Aggregation.MAX, (EVENTS, HIGHEST), Measured.QUANTITY, number_of)
