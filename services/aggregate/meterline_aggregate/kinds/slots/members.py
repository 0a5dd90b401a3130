"""The slot for distinct values, stored as digests of 16 bytes; its number is their count.

Members are folded into their own rows (`folding.rules.members`). Storing them finds how many are new.
"""

from __future__ import annotations

from meterline_aggregate.kinds.slots.slot import Fixed, Slot


class _Members(Slot):
    code = 3
    has_members = True
    of_batches = False
    inverse = False
    empty = 0
    sql_merge = "w.value + excluded.value"

    def merge(self, mine: int, theirs: int) -> int:
        """Adds two numbers of new members."""
        return mine + theirs

    def less(self, mine: Fixed | None, gone: Fixed | None) -> Fixed | None:
        """Retracted events remove no members until the month is rebuilt."""
        return Fixed(0, 0)


MEMBERS = _Members()
