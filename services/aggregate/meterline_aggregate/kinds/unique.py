"""UNIQUE: the number of distinct subjects, or of distinct values of a dimension."""

from __future__ import annotations

from meterline_aggregate.kinds.kind import Aggregation, Kind, Measured, number_of
from meterline_aggregate.kinds.slots.events import EVENTS
from meterline_aggregate.kinds.slots.members import MEMBERS

UNIQUE = Kind(Aggregation.UNIQUE, (EVENTS, MEMBERS), Measured.MEMBER, number_of)
