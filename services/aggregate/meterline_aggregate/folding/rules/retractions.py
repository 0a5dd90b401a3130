"""Removes retracted events from the events of one meter and tenant.

Rows that are equal to the meter are interchangeable, whatever events they are. So rows are compared by what
the meter sees of them, and a retracted row removes any one equal row.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from meterline.bounds import MAX_SCALE

from meterline_aggregate.folding.rules.plain import Event, events_of
from meterline_aggregate.folding.rules.rows import SUBJECT, Message, Target
from meterline_aggregate.windows.calendar import MINUTE_US

# What a meter sees of a row: its minute, targets, subject and units.
Sight = tuple[int, tuple[Target, ...], str, int]


@dataclass(slots=True)
class Retractions:
    """Retracted rows that have not yet removed an equal row."""

    rows: Counter[Sight] = field(default_factory=Counter)

    def note(self, message: Message) -> None:
        """Adds the message's retracted rows. Its series must have targets of one meter only."""
        for event, is_gone in zip(events_of(message, 0), message.gone.tolist(), strict=True):
            if is_gone and (sight := _sight(event)) is not None:
                self.rows[sight] += 1

    def remove(self, message: Message) -> Message:
        """The message's rows that are neither retractions nor retracted."""
        left = ~message.gone
        if self.rows:
            for row, event in enumerate(events_of(message, 0)):
                sight = _sight(event) if left[row] else None
                if sight is not None and sight in self.rows:
                    left[row] = False
                    self._cross_off(sight)
        return message.only(left)

    def _cross_off(self, sight: Sight) -> None:
        self.rows[sight] -= 1
        if not self.rows[sight]:
            del self.rows[sight]


def _sight(event: Event) -> Sight | None:
    """None for a row that the meter does not count."""
    targets = event.series.targets
    value = event.measured(targets[0]) if targets else None
    if value is None:
        return None
    # At the finest scale, equal quantities have equal units.
    subject = event.subject if targets[0].measure == SUBJECT else ""
    return event.time_us // MINUTE_US, targets, subject, value.units * 10 ** (MAX_SCALE - value.scale)
