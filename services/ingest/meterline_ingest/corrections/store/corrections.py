"""Corrections, and the calls that made them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.types.json import Jsonb

from meterline_ingest.corrections.rules.changes import Kind, SignedRow
from meterline_ingest.corrections.rules.history import Correction, CorrectionFilter, CorrectionKey
from meterline_ingest.corrections.store.current import Current
from meterline_ingest.event.content import Content

queries = Queries("meterline_ingest.corrections.store", "corrections.sql")

Position = Mapping[str, Any]
"""Where a call continues."""

_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_NEWEST: Final[CorrectionKey] = (_LAST, uuid.UUID(int=0), 0)


@dataclass(frozen=True, slots=True)
class Revision:
    """A correction of one event. `after` is None for a retraction; `sealed` belongs to `after`."""

    current: Current
    after: Content | None
    sealed: bytes | None = None

    @property
    def number(self) -> int:
        return self.current.revision + 1


@dataclass(frozen=True, slots=True)
class Request:
    """A call as stored. `position` is None when it is complete."""

    digest: uuid.UUID
    at: datetime
    position: Position | None
    unchanged: int
    failed: int
    failures: Sequence[Mapping[str, str]]


async def add_request(
    connection: Connection,
    tenant_id: int,
    correction_id: uuid.UUID,
    digest: uuid.UUID,
    requested_by: str,
    reason: str,
    position: Position | None,
) -> bool:
    """Whether it is new. Waits for a concurrent transaction that adds the same."""
    cursor = await connection.execute(
        queries.add_request,
        {
            "tenant_id": tenant_id,
            "correction_id": correction_id,
            "digest": digest,
            "requested_by": requested_by,
            "reason": reason,
            "position": _json(position),
        },
    )
    return cursor.rowcount == 1


async def find_request(connection: Connection, tenant_id: int, correction_id: uuid.UUID) -> Request | None:
    cursor = await connection.execute(queries.find_request, (tenant_id, correction_id), binary=True)
    row = await cursor.fetchone()
    return Request(*row) if row else None


async def lock_request(connection: Connection, tenant_id: int, correction_id: uuid.UUID) -> Position | None:
    """The position of a call, locked until the transaction ends."""
    cursor = await connection.execute(queries.lock_request, (tenant_id, correction_id), binary=True)
    ((position,),) = await cursor.fetchall()
    found: Position | None = position
    return found


async def move_request(
    connection: Connection,
    tenant_id: int,
    correction_id: uuid.UUID,
    position: Position | None,
    *,
    unchanged: int,
    failed: int,
    failures: Sequence[Mapping[str, str]],
) -> None:
    await connection.execute(
        queries.move_request,
        {
            "tenant_id": tenant_id,
            "correction_id": correction_id,
            "position": _json(position),
            "unchanged": unchanged,
            "failed": failed,
            "failures": Jsonb(list(failures)),
        },
    )


async def add(
    connection: Connection,
    tenant_id: int,
    correction_id: uuid.UUID,
    batch_id: uuid.UUID,
    kind: Kind,
    revisions: Sequence[Revision],
) -> bool:
    """False when others have corrected one of these events meanwhile; the caller must then roll back."""
    cursor = await connection.execute(
        queries.add_corrections,
        {
            "tenant_id": tenant_id,
            "correction_id": correction_id,
            "kind": kind.value,
            "batch_id": batch_id,
            "rows": Jsonb([_row(revision) for revision in revisions]),
        },
    )
    return cursor.rowcount == len(revisions)


async def count(connection: Connection, tenant_id: int, correction_id: uuid.UUID) -> int:
    """Events that a call has corrected."""
    cursor = await connection.execute(queries.count_corrected, (tenant_id, correction_id))
    ((corrected,),) = await cursor.fetchall()
    return int(corrected)


async def already(
    connection: Connection, tenant_id: int, correction_id: uuid.UUID, event_ids: Sequence[uuid.UUID]
) -> set[uuid.UUID]:
    """Those of `event_ids` that the call has corrected."""
    parameters = (tenant_id, correction_id, list(event_ids))
    cursor = await connection.execute(queries.already_corrected, parameters, binary=True)
    return {event_id for (event_id,) in await cursor.fetchall()}


async def signed_rows(connection: Connection, tenant_id: int, batch_id: uuid.UUID) -> list[SignedRow]:
    """The rows of a batch of corrections in the order of its message: those that it retracts, then those that
    it counts."""
    cursor = await connection.execute(queries.signed_rows, (tenant_id, batch_id), binary=True)
    taken, added = [], []
    for event_id, revision, old, new, old_batch_id in await cursor.fetchall():
        taken.append(SignedRow(event_id, Content.from_json(old), revision, old_batch_id))
        if new is not None:
            added.append(SignedRow(event_id, Content.from_json(new), revision))
    return taken + added


async def of_event(connection: Connection, tenant_id: int, event_id: uuid.UUID) -> list[Correction]:
    """In the order in which they were made."""
    cursor = await connection.execute(queries.corrections_of_event, (tenant_id, event_id), binary=True)
    return [_correction(row) for row in await cursor.fetchall()]


async def page(
    connection: Connection, tenant_id: int, chosen: CorrectionFilter, before: CorrectionKey | None, limit: int
) -> list[Correction]:
    """The newest first, after `before` in this order."""
    query = queries.list_corrections
    if chosen.event_id is not None:
        query = queries.list_of_event
    elif chosen.correction_id is not None:
        query = queries.list_of_request
    elif chosen.import_id is not None:
        query = queries.list_of_import
    moment, event_id, revision = before or _NEWEST
    parameters = {
        "tenant_id": tenant_id,
        "event_id": chosen.event_id,
        "correction_id": chosen.correction_id,
        "import_id": chosen.import_id,
        "start": chosen.start or _FIRST,
        "end": chosen.end or _LAST,
        "before": moment,
        "before_id": event_id,
        "before_revision": revision,
        "limit": limit,
    }
    cursor = await connection.execute(query, parameters, binary=True)
    return [_correction(row) for row in await cursor.fetchall()]


def _correction(row: Sequence[Any]) -> Correction:
    event_id, revision, correction_id, kind, old, new, *rest = row
    after = None if new is None else Content.from_json(new)
    return Correction(event_id, revision, correction_id, Kind(kind), Content.from_json(old), after, *rest)


def _row(revision: Revision) -> dict[str, Any]:
    """The fields of a row; missing ones become NULL."""
    current, after = revision.current, revision.after
    row: dict[str, Any] = {
        "event_id": str(current.event_id),
        "revision": revision.number,
        "old": current.content.to_json(),
        "old_batch_id": str(current.batch_id),
    }
    if after is not None:
        row["new"] = after.to_json()
    if revision.sealed is not None:
        row["sealed"] = f"\\x{revision.sealed.hex()}"
    if current.import_id is not None:
        row["import_id"] = str(current.import_id)
    return row


def _json(position: Position | None) -> Jsonb | None:
    return None if position is None else Jsonb(dict(position))
