"""Reads stored events and batches, always of one tenant."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meterline.clock import to_datetime
from meterline.db.pool import Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from meterline.outbox.store import queries as outbox_queries

from meterline_ingest.domain.content import Content
from meterline_ingest.domain.history import Correction
from meterline_ingest.repository import corrections, current
from meterline_ingest.repository.current import Current
from meterline_ingest.repository.writing import unsigned

queries = Queries("meterline_ingest.repository", "reading.sql")

Key = tuple[datetime, uuid.UUID, int]
"""Time, id, and a number that tells apart what has both in common."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`units` are fixed point, in the order of the type's quantities; None where absent.

    revision: how many corrections made it what it is here
    retracted: whether its batch takes it away
    """

    event_id: uuid.UUID
    occurred_at: datetime
    units: tuple[int | None, ...]
    subject: str
    event_type: str
    dimensions: dict[str, str]
    text_id: str | None
    batch_id: uuid.UUID
    revision: int = 0
    retracted: bool = False

    @property
    def key(self) -> Key:
        """Its place in a list. Of one event at one time, what came first comes first: as it was accepted, as
        the first correction takes it away, as that counts it instead, as the second takes that away."""
        return self.occurred_at, self.event_id, 2 * self.revision - self.retracted


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """`event_count` are the events that it counts, `retracted` those that it takes away."""

    batch_id: uuid.UUID
    source: str
    event_count: int
    received_at: datetime
    trace_id: str
    span_id: str
    sampled: bool
    message_id: uuid.UUID
    retracted: int


@dataclass(frozen=True, slots=True)
class EventFilter:
    batch_ids: Sequence[uuid.UUID]
    event_type: str | None
    start: datetime | None
    end: datetime | None


class EventReader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant_id: int, event_id: uuid.UUID) -> tuple[StoredEvent | None, list[Correction]]:
        """An event as it stands, and all that was done to it, in order."""
        async with self._database.connection([tenant_id]) as connection:
            found = await current.read(connection, tenant_id, [event_id])
            made = await corrections.of_event(connection, tenant_id, event_id)
        return (_standing(found[0]) if found else None), made

    async def select(
        self,
        tenant_id: int,
        chosen: EventFilter,
        after: Key | None,
        limit: int,
    ) -> list[StoredEvent]:
        """Events as batches brought them, in the order of their keys, from beyond `after`."""
        parameters = {
            "tenant_id": tenant_id,
            "batch_ids": list(chosen.batch_ids),
            "event_type": chosen.event_type,
            "start": chosen.start,
            "end": chosen.end,
            "after_time": after and after[0],
            "after_id": after and after[1],
            "after_step": after and after[2],
            "limit": limit,
        }
        async with self._database.connection([tenant_id]) as connection:
            cursor = await connection.execute(queries.list_events, parameters, binary=True)
            found = [_event(row) for row in await cursor.fetchall()]
            cursor = await connection.execute(queries.list_corrected, parameters, binary=True)
            found += [_corrected(row) for row in await cursor.fetchall()]
        return sorted(found, key=lambda event: event.key)[:limit]

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
                *rest,
            )
            for batch_id, source, count, received_at, trace_id, span_id, *rest in rows
        ]

    async def totals(self, tenant_id: int | None) -> dict[int, int]:
        """Accepted events, less those that were retracted, by tenant number; of all tenants for None."""
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


def _corrected(row: Sequence[Any]) -> StoredEvent:
    event_id, occurred_at, content, revision, retracted, batch_id, text_id = row
    return _of(event_id, occurred_at, Content.from_json(content), text_id, batch_id, revision, retracted)


def _standing(event: Current) -> StoredEvent:
    said = event.content
    return _of(
        event.event_id,
        to_datetime(said.time_us),
        said,
        event.text_id,
        event.batch_id,
        event.revision,
        event.retracted,
    )


def _of(
    event_id: uuid.UUID,
    occurred_at: datetime,
    said: Content,
    text_id: str | None,
    batch_id: uuid.UUID,
    revision: int,
    retracted: bool,
) -> StoredEvent:
    return StoredEvent(
        event_id,
        occurred_at,
        said.units,
        said.subject,
        said.event_type,
        dict(said.dimensions),
        text_id,
        batch_id,
        revision,
        retracted,
    )
