"""The expected content of tables after changes were applied, as dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from meterline_aggregate.folding.rules.changes import Changes
from meterline_aggregate.folding.rules.dispatch import fold
from meterline_aggregate.folding.rules.rows import Message
from meterline_aggregate.kinds.slots.events import EVENTS
from meterline_aggregate.kinds.slots.highest import HIGHEST

from tests.support.folding import comparable

Key = tuple[int, ...]


@dataclass
class Stored:
    """The expected content of tables: applies changes to dictionaries by the rules of the upserts."""

    windows: dict[Key, tuple[int, Fraction | None]] = field(default_factory=dict)
    members: set[tuple[Key, bytes]] = field(default_factory=set)
    contributions: dict[tuple[Key, bytes], tuple[int, Fraction | None]] = field(default_factory=dict)
    totals: dict[int, int] = field(default_factory=dict)

    def apply(self, changes: Changes) -> None:
        said = comparable(changes)
        slots = changes.windows.numbers.slot.tolist()
        for row, slot in zip(said["windows"], slots, strict=True):
            *key, count, _, value = row
            before, mine = self.windows.get(tuple(key), (0, None))
            together: Fraction | None
            if slot == EVENTS.code:
                together = None
            elif slot == HIGHEST.code:
                together = max((one for one in (mine, value) if one is not None), default=None)
            else:
                together = (mine or Fraction(0)) + value
            self.windows[tuple(key)] = (before + count, together)
        self.members |= {(tuple(row[:5]), row[5]) for row in said["members"]}
        for tenant, meter, start, batch_id, count, value in said["contributions"]:
            place = ((tenant, meter, start), batch_id)
            assert place not in self.contributions
            self.contributions[place] = (count, value)
        for tenant, count in changes.totals.items():
            self.totals[tenant] = self.totals.get(tenant, 0) + count


def stored(parts: Sequence[Sequence[Message]]) -> Stored:
    found = Stored()
    for part in parts:
        found.apply(fold(part))
    return found
