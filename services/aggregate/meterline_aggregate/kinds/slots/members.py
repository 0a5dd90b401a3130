"""Different values, kept as digests of 16 bytes; their number is the slot's.

They are folded to rows of their own (`folding.rules.members`). Storing them finds how many are new.
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
        """Of numbers of new members."""
        return mine + theirs

    def less(self, mine: Fixed | None, gone: Fixed | None) -> Fixed | None:
        """What is taken away leaves its members, until the month is computed again."""
        return Fixed(0, 0)


MEMBERS = _Members()
