"""n: the number of events, which every window keeps in a column of its own."""

from __future__ import annotations

from meterline_aggregate.kinds.slots.slot import Fixed, Slot


class _Events(Slot):
    """Has no number besides: as a row's slot it says that nothing else is kept."""

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
