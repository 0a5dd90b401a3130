"""Which events a correction of many selects."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meterline.errors import InvalidArgumentError

from meterline_ingest.corrections.rules.changes import MAX_IDS
from meterline_ingest.event.content import Content

FIRST_US: Final = 0
LAST_US: Final = 253_402_300_799_999_999
"""The end of the year 9999."""


@dataclass(frozen=True, slots=True)
class NamedEvents:
    """Selects events by their ids, each with its id as sent. Raises InvalidArgumentError."""

    events: Sequence[tuple[uuid.UUID, str]]

    def __post_init__(self) -> None:
        different = {event_id for event_id, _ in self.events}
        if not 0 < len(self.events) <= MAX_IDS or len(different) < len(self.events):
            raise InvalidArgumentError("ids.event_ids", f"1 to {MAX_IDS}, all different")


@dataclass(frozen=True, slots=True)
class EventsFilter:
    """Selects events by content and batch. Times are half-open. Raises InvalidArgumentError."""

    event_type: str = ""
    subject: str | None = None
    source: str = ""
    batch_ids: Sequence[uuid.UUID] = ()
    start_us: int | None = None
    end_us: int | None = None

    def __post_init__(self) -> None:
        if not self.batch_ids and self.start_us is None:
            raise InvalidArgumentError("filter", "batch_ids, or the start of a time")
        if self.since_us >= self.until_us:
            raise InvalidArgumentError("filter.time", "start_time before end_time")

    @property
    def since_us(self) -> int:
        return FIRST_US if self.start_us is None else self.start_us

    @property
    def until_us(self) -> int:
        return LAST_US if self.end_us is None else self.end_us

    def fits(self, content: Content) -> bool:
        """Whether an event with this content is selected. Batches are matched elsewhere."""
        return (
            self.event_type in ("", content.event_type)
            and self.subject in (None, content.subject)
            and self.since_us <= content.time_us < self.until_us
        )
