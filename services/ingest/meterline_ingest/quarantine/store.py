"""Rejected events: listed, settled and deleted. Payloads are sealed before they get here."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from meterline.clock import EPOCH
from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, TraceFlags

from meterline_ingest.capture.rules.rejected import MAX_FIELD, Held, cut
from meterline_ingest.capture.store.events import unsigned
from meterline_ingest.capture.store.rejected import PAYLOAD, TABLE
from meterline_ingest.event.outcomes import Problem, Stage
from meterline_ingest.quarantine.rules import QuarantineFilter, State

if TYPE_CHECKING:
    from meterline_ingest.keys.rules import Resealed

queries = Queries("meterline_ingest.quarantine", "store.sql")


Place = tuple[datetime, uuid.UUID]
"""The place of an entry in the order of first receipt."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An entry as stored, without its payload, which has `size` bytes."""

    trace: SpanContext
    state: State
    stage: Stage
    quarantine_id: uuid.UUID
    source: str
    event_id: str
    event_type: str
    reason: str
    field: str
    rule: str
    received_at: datetime
    last_received_at: datetime
    sent_at: datetime | None
    attempts: int
    settled_at: datetime | None
    settled_by: str
    size: int

    @property
    def place(self) -> Place:
        return self.received_at, self.quarantine_id


async def page(
    connection: Connection,
    tenant_id: int,
    chosen: QuarantineFilter,
    state: State,
    after: Place | None,
    limit: int,
) -> list[Quarantined]:
    """In the order of first receipt, after `after`."""
    after_time, after_id = after or (EPOCH, uuid.UUID(int=0))
    cursor = await connection.execute(
        queries.page,
        {
            "tenant_id": tenant_id,
            "state": state.value,
            "after_time": after_time,
            "after_id": after_id,
            "start": chosen.start,
            "end": chosen.end,
            "ids": None if chosen.ids is None else list(chosen.ids),
            "event_type": chosen.event_type,
            "reason": chosen.reason,
            "field": chosen.field,
            "source": chosen.source,
            "stage": chosen.stage.value if chosen.stage else "",
            "limit": limit,
        },
        binary=True,
    )
    return [_quarantined(row) for row in await cursor.fetchall()]


async def find(connection: Connection, tenant_id: int, quarantine_id: uuid.UUID) -> Quarantined | None:
    """In any state."""
    cursor = await connection.execute(queries.find, (tenant_id, quarantine_id), binary=True)
    row = await cursor.fetchone()
    return _quarantined(row) if row else None


async def payloads(
    connection: Connection, tenant_id: int, ids: Collection[uuid.UUID]
) -> dict[uuid.UUID, bytes]:
    """Sealed payloads by id."""
    cursor = await connection.execute(queries.payloads, (tenant_id, list(ids)), binary=True)
    return dict(await cursor.fetchall())


async def mark_replayed(connection: Connection, tenant_id: int, ids: Collection[uuid.UUID], by: str) -> None:
    await connection.execute(queries.mark_replayed, {"tenant_id": tenant_id, "ids": list(ids), "by": by})


async def judge_again(connection: Connection, tenant_id: int, found: Mapping[uuid.UUID, Problem]) -> None:
    """Updates the problems of those that still wait."""
    await connection.execute(
        queries.judge_again,
        {
            "tenant_id": tenant_id,
            "ids": list(found),
            "stages": [problem.stage.value for problem in found.values()],
            "reasons": [problem.reason for problem in found.values()],
            "fields": [cut(problem.field, MAX_FIELD) for problem in found.values()],
            "rules": [problem.message for problem in found.values()],
        },
    )


async def discard(connection: Connection, tenant_id: int, ids: Collection[uuid.UUID], by: str) -> int:
    """Returns how many of them still waited."""
    cursor = await connection.execute(queries.discard, {"tenant_id": tenant_id, "ids": list(ids), "by": by})
    return cursor.rowcount


async def forget_waiting(connection: Connection, tenant_id: int, age: timedelta, limit: int) -> int:
    """Deletes a tenant's waiting entries that were first received longer ago than `age`; returns how many."""
    parameters = {"tenant_id": tenant_id, "age": age, "limit": limit}
    return (await connection.execute(queries.forget_waiting, parameters)).rowcount


async def forget_oldest(connection: Connection, tenant_id: int, excess: int, limit: int) -> int:
    """Deletes the entries that were settled first, until `excess` bytes are deleted; returns how many."""
    parameters = {"tenant_id": tenant_id, "excess": excess, "limit": limit}
    return (await connection.execute(queries.forget_oldest, parameters)).rowcount


class QuarantineCounts:
    """Queries over the entries of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(self) -> int:
        ((count,),) = await self._database.fetch(queries.all_waiting, tenants=ALL_TENANTS)
        return int(count)

    async def most(self) -> Held:
        """The most waiting entries, and the most bytes, of any tenant."""
        ((waiting, size),) = await self._database.fetch(queries.most_held, tenants=ALL_TENANTS)
        return Held(waiting, size)

    async def larger_than(self, size: int) -> list[tuple[int, int]]:
        """Tenants with more bytes than `size`, each with its bytes."""
        rows = await self._database.fetch(queries.larger_than, (size,), ALL_TENANTS)
        return [(tenant_id, held) for tenant_id, held in rows]

    async def tenants(self) -> list[int]:
        """Tenants with waiting entries."""
        rows = await self._database.fetch(queries.tenants_waiting, tenants=ALL_TENANTS)
        return [tenant_id for (tenant_id,) in rows]

    async def forget_settled(self, age: timedelta, limit: int) -> int:
        """Deletes entries that were settled longer ago than `age`; returns how many."""
        async with self._database.connection(ALL_TENANTS) as connection:
            cursor = await connection.execute(queries.forget_settled, {"age": age, "limit": limit})
            await connection.commit()
            return cursor.rowcount


class QuarantinePayloads:
    """The sealed column, for the resealer."""

    table: Final = TABLE
    column: Final = PAYLOAD

    async def earlier(
        self, connection: Connection, tenant_id: int, before: bytes, after: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """(row, value) of a tenant's values that are less than `before`, in rows after `after`, by row."""
        beyond = uuid.UUID(bytes=after or bytes(16))
        cursor = await connection.execute(
            queries.earlier_payloads, (tenant_id, before, beyond, limit), binary=True
        )
        return [(quarantine_id.bytes, payload) for quarantine_id, payload in await cursor.fetchall()]

    async def replace(self, connection: Connection, tenant_id: int, values: Sequence[Resealed]) -> int:
        """Stores each, unless the value has changed since it was read; returns how many."""
        cursor = await connection.execute(
            queries.replace_payloads,
            {
                "tenant_id": tenant_id,
                "ids": [uuid.UUID(bytes=value.row) for value in values],
                "before": [value.before for value in values],
                "after": [value.after for value in values],
            },
        )
        return cursor.rowcount


def _quarantined(row: Sequence[Any]) -> Quarantined:
    return Quarantined(_trace(*row[:3]), State(row[3]), Stage(row[4]), *row[5:])


def _trace(trace_id: uuid.UUID | None, span_id: int, sampled: bool) -> SpanContext:
    if trace_id is None:
        return INVALID_SPAN_CONTEXT
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(trace_id.int, unsigned(span_id), is_remote=True, trace_flags=flags)
