"""SUM: the sum of a quantity."""

from __future__ import annotations

from meterline_aggregate.kinds.kind import Aggregation, Kind, Measured, number_of
from meterline_aggregate.kinds.slots.events import EVENTS
from meterline_aggregate.kinds.slots.sums import SUMS

SUM = Kind(Aggregation.SUM, (EVENTS, SUMS), Measured.QUANTITY, number_of)
