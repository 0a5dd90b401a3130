"""Reads stored events and batches, always of one tenant."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from meterline.clock import to_datetime, to_us
from meterline.db.pool import Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from psycopg.types.json import Jsonb

from meterline_ingest.capture.store import details
from meterline_ingest.capture.store.events import unsigned
from meterline_ingest.corrections.rules.history import Correction
from meterline_ingest.corrections.store import corrections, current
from meterline_ingest.corrections.store.current import CORRECTIONS, SEALED, Current, SealedValue, sealed_row
from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event.content import Content
from meterline_ingest.reading.time_pages import Position, Span

queries = Queries("meterline_ingest.reading", "store.sql")

_CORRECTED = BatchOrigin.CORRECTED.value
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


class EventReader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant_id: int, event_id: uuid.UUID) -> tuple[StoredEvent | None, list[Correction]]:
        """An event in its present state, and all its corrections, in order."""
        parameters = {"tenant_id": tenant_id, "event_id": event_id}
        async with self._database.connection([tenant_id]) as connection:
            cursor = await connection.execute(queries.find_event, parameters, binary=True)
            row = await cursor.fetchone()
            if row is None:
                return None, []
            event, made = _event(row), await corrections.of_event(connection, tenant_id, event_id)
            if made:
                (now,) = await current.read(connection, tenant_id, [event_id])
                event = _current_version(event, now)
                if event.retracted:
                    event = replace(event, origin=made[-1].batch_id_before)
        return event, made

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
                *rest,
            )
            for batch_id, source, count, received_at, trace_id, span_id, *rest in rows
        ]

    async def totals(self, tenant_id: int | None) -> dict[int, int]:
        """Accepted events, less those that were retracted, by tenant number; of all tenants for None."""
        scope = ALL_TENANTS if tenant_id is None else [tenant_id]
        return dict(await self._database.fetch(queries.totals, {"tenant_id": tenant_id}, scope))


class Selection:
    """Some of a tenant's events, to be paged through. Every statement is a separate transaction."""

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
            Span(
                to_us(first_at),
                number,
                count if origin == _CORRECTED or chosen.source in (None, source) else 0,
            )
            for first_at, number, count, source, origin in rows
        ]

    async def events(self, batch_numbers: Sequence[int], after: Position, limit: int) -> list[StoredEvent]:
        chosen = self._chosen
        parameters = {
            "tenant_id": self._tenant_id,
            "batch_numbers": list(batch_numbers),
            # With named batches, the events as in these; for a range of time, in their present state.
            "standing": not chosen.batch_ids,
            "after_time": to_datetime(after.time_us),
            "after_id": after.event_id,
            "after_step": after.step,
            "end": chosen.end,
            "event_type": chosen.event_type,
            "subject": chosen.subject,
            "source": chosen.source,
            "dimensions": Jsonb(chosen.dimensions) if chosen.dimensions else None,
            "limit": limit,
        }
        async with self._database.connection([self._tenant_id]) as connection:
            cursor = await connection.execute(queries.events_of_batches, parameters, binary=True)
            found = [_event(row) for row in await cursor.fetchall()]
            cursor = await connection.execute(queries.corrected_of_batches, parameters, binary=True)
            corrected = [_corrected(row) for row in await cursor.fetchall()]
        return sorted(found + corrected, key=_position)[:limit] if corrected else found


def _event(row: Sequence[Any]) -> StoredEvent:
    (event_id, occurred_at, *units), columns, (value, *rest) = row[:6], row[6:15], row[15:]
    sealed = value and SealedValue(details.TABLE, details.SEALED, event_id.bytes, value)
    values: Sequence[Any] = (event_id, occurred_at, tuple(units), *columns, sealed, *rest)
    return StoredEvent(*values)


def _corrected(row: Sequence[Any]) -> StoredEvent:
    """One row of a correction, for the event whose row `row` begins with."""
    batch_id, revision, retracted, content, value, origin = row[18:]
    sealed = value and SealedValue(CORRECTIONS, SEALED, sealed_row(row[0], revision), value)
    event = _with_content(_event(row[:18]), Content.from_json(content), batch_id, revision, retracted, sealed)
    return replace(event, origin=origin)


def _current_version(event: StoredEvent, now: Current) -> StoredEvent:
    return _with_content(event, now.content, now.batch_id, now.revision, now.retracted, now.sealed)


def _with_content(
    event: StoredEvent,
    content: Content,
    batch_id: uuid.UUID,
    revision: int,
    retracted: bool,
    sealed: SealedValue | None,
) -> StoredEvent:
    """An accepted event with the content of a correction."""
    return replace(
        event,
        occurred_at=to_datetime(content.time_us),
        units=content.units,
        subject=content.subject,
        event_type=content.event_type,
        dimensions=dict(content.dimensions),
        batch_id=batch_id,
        sent_time=to_datetime(event.sent_us),
        properties=dict(content.properties),
        sealed=sealed,
        sealed_names=list(content.sealed),
        flags=list(content.flags),
        revision=revision,
        retracted=retracted,
    )


def _position(event: StoredEvent) -> Position:
    return event.position


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`units` are fixed point, in the order of the type's quantities; None where absent.

    skew_us: the skew that was added to the times of its batch
    sent_time: the time as it was sent, where it cannot be computed from the skew
    received_at: when it was first received
    revision: the number of corrections up to this content
    retracted: whether its batch retracts this content
    origin: the batch that a retracted content came with; None for others
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
    sealed: SealedValue | None
    sealed_names: list[str] | None
    flags: list[str] | None
    revision: int = 0
    retracted: bool = False
    origin: uuid.UUID | None = None

    @property
    def position(self) -> Position:
        """Its place in a list. Contents of one event at one time are in the order of their making: accepted,
        retracted by the first correction, added by it, retracted by the second."""
        return Position(to_us(self.occurred_at), self.event_id, 2 * self.revision - self.retracted)

    @property
    def sent_us(self) -> int:
        return to_us(self.occurred_at) - self.skew_us if self.sent_time is None else to_us(self.sent_time)


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """`event_count`: the events that it adds; `retracted`: those that it retracts."""

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
    """Selects events. None and empty match everything; `end` is exclusive."""

    batch_ids: Sequence[uuid.UUID] = ()
    end: datetime | None = None
    event_type: str | None = None
    subject: str | None = None
    source: str | None = None
    dimensions: dict[str, str] = field(default_factory=dict)
