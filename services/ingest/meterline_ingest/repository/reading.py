"""Reads stored events and batches, always of one tenant."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from meterline.clock import to_datetime, to_us
from meterline.db.pool import Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from psycopg.types.json import Jsonb

from meterline_ingest.domain.walk import Position, Span
from meterline_ingest.repository.writing import unsigned

queries = Queries("meterline_ingest.repository", "reading.sql")

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`units` are fixed point, in the order of the type's quantities; None where absent.

    skew_us: what was added to the times of its batch
    sent_time: the time as it was sent, where the skew does not lead back to it
    """

    event_id: uuid.UUID
    occurred_at: datetime
    units: tuple[int | None, ...]
    subject: str
    event_type: str
    dimensions: dict[str, str]
    text_id: str | None
    batch_id: uuid.UUID
    received_at: datetime
    skew_us: int
    sent_time: datetime | None
    properties: dict[str, str] | None
    sealed: bytes | None
    sealed_names: list[str] | None
    flags: list[str] | None

    @property
    def position(self) -> Position:
        return Position(to_us(self.occurred_at), self.event_id)

    @property
    def sent_us(self) -> int:
        return to_us(self.occurred_at) - self.skew_us if self.sent_time is None else to_us(self.sent_time)


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
    """Which events are wanted. None and empty let everything through; `end` is not in the range."""

    batch_ids: Sequence[uuid.UUID] = ()
    end: datetime | None = None
    event_type: str | None = None
    subject: str | None = None
    source: str | None = None
    dimensions: dict[str, str] = field(default_factory=dict)


class EventReader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant_id: int, event_id: uuid.UUID) -> StoredEvent | None:
        rows = await self._database.fetch(
            queries.find_event, {"tenant_id": tenant_id, "event_id": event_id}, [tenant_id]
        )
        return _event(rows[0]) if rows else None

    def select(self, tenant_id: int, chosen: EventFilter) -> Selection:
        return Selection(self._database, tenant_id, chosen)

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


class Selection:
    """Some of a tenant's events, to be walked through. Every statement is a transaction of its own."""

    def __init__(self, database: Database, tenant_id: int, chosen: EventFilter) -> None:
        self._database = database
        self._tenant_id = tenant_id
        self._chosen = chosen

    async def spans(self, after: Position, beyond: Span | None, limit: int) -> list[Span]:
        chosen = self._chosen
        parameters: dict[str, Any] = {
            "tenant_id": self._tenant_id,
            "start": to_datetime(after.time_us),
            "after_first": to_datetime(beyond.first_us) if beyond else _BEGINNING,
            "after_number": beyond.batch_number if beyond else -1,
            "limit": limit,
        }
        if chosen.batch_ids:
            query, parameters["batch_ids"] = queries.spans_of_batches, list(chosen.batch_ids)
        else:
            query, parameters["end"] = queries.spans_of_time, chosen.end
        rows = await self._database.fetch(query, parameters, [self._tenant_id])
        return [
            Span(to_us(first_at), number, count if chosen.source in (None, source) else 0)
            for first_at, number, count, source in rows
        ]

    async def events(self, batch_numbers: Sequence[int], after: Position, limit: int) -> list[StoredEvent]:
        chosen = self._chosen
        rows = await self._database.fetch(
            queries.events_of_batches,
            {
                "tenant_id": self._tenant_id,
                "batch_numbers": list(batch_numbers),
                "after_time": to_datetime(after.time_us),
                "after_id": after.event_id,
                "end": chosen.end,
                "event_type": chosen.event_type,
                "subject": chosen.subject,
                "dimensions": Jsonb(chosen.dimensions) if chosen.dimensions else None,
                "limit": limit,
            },
            [self._tenant_id],
        )
        return [_event(row) for row in rows]


def _event(row: Sequence[Any]) -> StoredEvent:
    return StoredEvent(row[0], row[1], tuple(row[2:6]), *row[6:])
