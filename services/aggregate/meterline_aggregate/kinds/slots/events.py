"""The number of events, which every window stores in `windows.event_count`."""

from __future__ import annotations

from meterline_aggregate.kinds.slots.slot import Fixed, Slot


class _Events(Slot):
    """Has no number in `windows.value`. A row with this slot stores nothing but the number of events."""

    code = 0
    has_number = False
    of_batches = False
    inverse = True
    empty = None
    sql_merge = "w.value + excluded.value"

    def merge(self, mine: int, theirs: int) -> int:
        return 0

    def less(self, mine: Fixed | None, gone: Fixed | None) -> Fixed | None:
        return None


EVENTS = _Events()
