"""The history of corrections and imports, as it is listed."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from meterline_ingest.corrections.rules.changes import Kind
from meterline_ingest.event.content import Content

CorrectionKey = tuple[datetime, uuid.UUID, int]
"""When a correction was made, its event, and its revision."""

ImportKey = tuple[datetime, uuid.UUID]
"""When an import was begun, and its id."""


@dataclass(frozen=True, slots=True)
class Correction:
    """`after` is None when the event was retracted. `text_id`: the id as it was sent, when it is no UUID."""

    event_id: uuid.UUID
    revision: int
    correction_id: uuid.UUID
    kind: Kind
    before: Content
    after: Content | None
    batch_id: uuid.UUID
    batch_id_before: uuid.UUID
    at: datetime
    requested_by: str
    reason: str
    text_id: str | None

    @property
    def sent_id(self) -> str:
        return self.text_id or str(self.event_id)

    @property
    def key(self) -> CorrectionKey:
        return self.at, self.event_id, self.revision


@dataclass(frozen=True, slots=True)
class CorrectionFilter:
    """At most one of the ids. Times are half-open."""

    event_id: uuid.UUID | None = None
    correction_id: uuid.UUID | None = None
    import_id: uuid.UUID | None = None
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Import:
    """`batches` and `events`: how many were imported until now."""

    import_id: uuid.UUID
    source: str
    requested_by: str
    reason: str
    started_at: datetime
    batches: int
    events: int

    @property
    def key(self) -> ImportKey:
        return self.started_at, self.import_id
