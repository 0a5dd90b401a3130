"""COUNT: the number of events."""

from __future__ import annotations

from decimal import Decimal

from meterline_aggregate.kinds.kind import Aggregation, Kind, Measured, State
from meterline_aggregate.kinds.slots.events import EVENTS


def _value(state: State) -> Decimal:
    return Decimal(state.events)


COUNT = Kind(Aggregation.COUNT, (EVENTS,), Measured.NOTHING, _value)
