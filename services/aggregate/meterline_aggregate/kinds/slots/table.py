"""All slots; the index of each is its code."""

from __future__ import annotations

from typing import Final

from meterline_aggregate.kinds.slots.events import EVENTS
from meterline_aggregate.kinds.slots.highest import HIGHEST
from meterline_aggregate.kinds.slots.members import MEMBERS
from meterline_aggregate.kinds.slots.slot import Slot
from meterline_aggregate.kinds.slots.sums import SUMS

SLOTS: Final[tuple[Slot, ...]] = (EVENTS, SUMS, HIGHEST, MEMBERS)
