"""Reads stored events and batches, always of one tenant."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meterline.db.pool import Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from meterline.outbox.store import queries as outbox_queries

from meterline_ingest.repository.writing import unsigned

queries = Queries("meterline_ingest.repository", "reading.sql")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`units` are fixed point, in the order of the type's quantities; None where absent."""

    event_id: uuid.UUID
    occurred_at: datetime
    units: tuple[int | None, ...]
    subject: str
    event_type: str
    dimensions: dict[str, str]
    text_id: str | None
    batch_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class StoredBatch:
    batch_id: uuid.UUID
    source: str
    event_count: int
    received_at: datetime
    trace_id: str
    span_id: str
    sampled: bool
    message_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class EventFilter:
    batch_ids: Sequence[uuid.UUID]
    event_type: str | None
    start: datetime | None
    end: datetime | None


class EventReader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant_id: int, event_id: uuid.UUID) -> StoredEvent | None:
        rows = await self._database.fetch(
            queries.find_event, {"tenant_id": tenant_id, "event_id": event_id}, [tenant_id]
        )
        return _event(rows[0]) if rows else None

    async def select(
        self,
        tenant_id: int,
        chosen: EventFilter,
        after: tuple[datetime, uuid.UUID] | None,
        limit: int,
    ) -> list[StoredEvent]:
        """Events in the order of (time, id), from beyond `after`."""
        rows = await self._database.fetch(
            queries.list_events,
            {
                "tenant_id": tenant_id,
                "batch_ids": list(chosen.batch_ids),
                "event_type": chosen.event_type,
                "start": chosen.start,
                "end": chosen.end,
                "after_time": after and after[0],
                "after_id": after and after[1],
                "limit": limit,
            },
            [tenant_id],
        )
        return [_event(row) for row in rows]

    async def batches(self, tenant_id: int, batch_ids: Sequence[uuid.UUID]) -> list[StoredBatch]:
        rows = await self._database.fetch(queries.find_batches, (tenant_id, list(batch_ids)), [tenant_id])
        return [
            StoredBatch(
                batch_id,
                source,
                count,
                received_at,
                trace_id.hex if trace_id else "",
                f"{unsigned(span_id):016x}" if trace_id else "",
                sampled,
                message_id,
            )
            for batch_id, source, count, received_at, trace_id, span_id, sampled, message_id in rows
        ]

    async def totals(self, tenant_id: int | None) -> dict[int, int]:
        """Accepted events by tenant number; of all tenants for None."""
        scope = ALL_TENANTS if tenant_id is None else [tenant_id]
        return dict(await self._database.fetch(queries.totals, {"tenant_id": tenant_id}, scope))

    async def replay(self, start: datetime, end: datetime) -> int:
        """Marks the messages of a range of commit times as not published; returns how many."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(outbox_queries.replay, (start, end))
            await connection.commit()
            return cursor.rowcount


def _event(row: Sequence[Any]) -> StoredEvent:
    return StoredEvent(row[0], row[1], tuple(row[2:6]), *row[6:])
