"""Which message reported which batches and events: enough to send it again, or to rebuild it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from meterline.clock import to_us
from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from meterline_protos.common.v1 import types_pb2

from meterline_ingest.capture.store.events import unsigned
from meterline_ingest.event.batches import BatchOrigin

queries = Queries("meterline_ingest.capture.store", "messages.sql")


@dataclass(frozen=True, slots=True)
class MessageBatch:
    """The part of a call that concerns one tenant, as its message reports it."""

    batch_id: uuid.UUID
    tenant_id: int
    batch_number: int
    origin: BatchOrigin
    event_count: int
    received_at_us: int
    trace: types_pb2.TraceContext


@dataclass(frozen=True, slots=True)
class MessageRow:
    """An event as its message reports it. `properties` are those that are not sealed."""

    batch_number: int
    tenant_id: int
    event_id: uuid.UUID
    time_us: int
    units: tuple[int | None, ...]
    subject: str
    event_type: str
    dimensions: dict[str, str]
    properties: dict[str, str]


class Messages:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_events(self, tenant_id: int, event_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
        rows = await self._database.fetch(
            queries.messages_of_events, (tenant_id, list(event_ids)), [tenant_id]
        )
        return [message_id for (message_id,) in rows]

    async def of_batches(self, tenant_id: int, batch_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
        rows = await self._database.fetch(
            queries.messages_of_batches, (tenant_id, list(batch_ids)), [tenant_id]
        )
        return [message_id for (message_id,) in rows]

    async def of_time(self, after: uuid.UUID, end: datetime, limit: int) -> list[uuid.UUID]:
        """Messages after `after` and before `end`, in the order in which they were made."""
        rows = await self._database.fetch(
            queries.messages_of_time, {"after": after, "end": end, "limit": limit}, ALL_TENANTS
        )
        return [message_id for (message_id,) in rows]


async def batches(connection: Connection, message_id: uuid.UUID) -> list[MessageBatch]:
    """The batches of a message, in its order; of all tenants."""
    cursor = await connection.execute(queries.batches_of_message, (message_id,), binary=True)
    return [
        MessageBatch(
            batch_id,
            tenant_id,
            number,
            BatchOrigin(origin),
            count,
            to_us(received_at),
            types_pb2.TraceContext(
                trace_id=trace_id.hex if trace_id else "",
                span_id=f"{unsigned(span_id):016x}" if trace_id else "",
                sampled=sampled,
            ),
        )
        for (
            batch_id,
            tenant_id,
            number,
            origin,
            count,
            received_at,
            trace_id,
            span_id,
            sampled,
        ) in await cursor.fetchall()
    ]


async def rows(connection: Connection, message_batches: Sequence[MessageBatch]) -> list[MessageRow]:
    """The events of batches, batch by batch."""
    keys = [each.batch_number for each in message_batches], [each.tenant_id for each in message_batches]
    cursor = await connection.execute(queries.rows_of_batches, keys, binary=True)
    return [
        MessageRow(
            row[0], row[1], row[2], to_us(row[3]), tuple(row[4:8]), row[8], row[9], row[10], row[11] or {}
        )
        for row in await cursor.fetchall()
    ]
