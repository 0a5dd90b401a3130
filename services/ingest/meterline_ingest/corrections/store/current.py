"""The present content of events: from their rows or, if corrected, from their last corrections."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from meterline.clock import to_us
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_ingest.capture.store import details
from meterline_ingest.event.content import Content

queries = Queries("meterline_ingest.corrections.store", "current.sql")

CORRECTIONS: Final = "corrections"
SEALED: Final = "sealed"


@dataclass(frozen=True, slots=True)
class SealedValue:
    """Sensitive properties, and the place that they are sealed for."""

    table: str
    column: str
    row: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Current:
    """An event in its present state.

    text_id: the id as it was sent, when it is no UUID
    revision: how many corrections it has had
    content: for a retracted event, as it was before its retraction
    batch_id: the batch of its present content, or of its retraction
    """

    event_id: uuid.UUID
    text_id: str | None
    revision: int
    content: Content
    retracted: bool
    batch_id: uuid.UUID
    import_id: uuid.UUID | None
    sealed: SealedValue | None

    @property
    def sent_id(self) -> str:
        return self.text_id or str(self.event_id)


async def read(connection: Connection, tenant_id: int, event_ids: Sequence[uuid.UUID]) -> list[Current]:
    """Those that exist, in the order of their ids."""
    parameters = {"tenant_id": tenant_id, "event_ids": list(event_ids)}
    cursor = await connection.execute(queries.current_events, parameters, binary=True)
    return [_current(row) for row in await cursor.fetchall()]


def sealed_row(event_id: uuid.UUID, revision: int) -> bytes:
    """The row that the sensitive properties of a correction are sealed for."""
    return event_id.bytes + revision.to_bytes(4, "big")


def _current(row: Sequence[Any]) -> Current:
    event_id, text_id, batch_id, import_id = row[0], row[14], row[15], row[16]
    revision, corrected_by, old, new, resealed = row[17:]
    if revision is None:
        sealed = row[10] and SealedValue(details.TABLE, details.SEALED, event_id.bytes, row[10])
        return Current(event_id, text_id, 0, _accepted(row), False, batch_id, import_id, sealed)
    sealed = resealed and SealedValue(CORRECTIONS, SEALED, sealed_row(event_id, revision), resealed)
    content = Content.from_json(old if new is None else new)
    return Current(event_id, text_id, revision, content, new is None, corrected_by, import_id, sealed)


def _accepted(row: Sequence[Any]) -> Content:
    """The content in the row of `events` and its details."""
    return Content(
        row[7],
        row[6],
        to_us(row[1]),
        row[8],
        tuple(row[2:6]),
        row[9] or {},
        tuple(row[13] or ()),
        tuple(row[11] or ()),
        tuple(row[12] or ()),
    )
