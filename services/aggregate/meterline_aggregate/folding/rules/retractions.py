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
RowKey = tuple[int, tuple[Target, ...], str, int]


@dataclass(slots=True)
class Retractions:
    """Retracted rows that have not yet removed an equal row."""

    rows: Counter[RowKey] = field(default_factory=Counter)

    def note(self, message: Message) -> None:
        """Adds the message's retracted rows. Its series must have targets of one meter only."""
        for event, is_gone in zip(events_of(message, 0), message.retracted_rows.tolist(), strict=True):
            if is_gone and (key := _row_key(event)) is not None:
                self.rows[key] += 1

    def remove(self, message: Message) -> Message:
        """The message's rows that are neither retractions nor retracted."""
        left = ~message.retracted_rows
        if self.rows:
            for row, event in enumerate(events_of(message, 0)):
                key = _row_key(event) if left[row] else None
                if key is not None and key in self.rows:
                    left[row] = False
                    self._remove_one(key)
        return message.only(left)

    def _remove_one(self, key: RowKey) -> None:
        self.rows[key] -= 1
        if not self.rows[key]:
            del self.rows[key]


def _row_key(event: Event) -> RowKey | None:
    """None for a row that the meter does not count."""
    targets = event.series.targets
    value = event.measured(targets[0]) if targets else None
    if value is None:
        return None
    # At the finest scale, equal quantities have equal units.
    subject = event.subject if targets[0].measure == SUBJECT else ""
    return event.time_us // MINUTE_US, targets, subject, value.units * 10 ** (MAX_SCALE - value.scale)
