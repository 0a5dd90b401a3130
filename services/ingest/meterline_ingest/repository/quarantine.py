"""Rejected events: kept, listed, settled, forgotten. What they say is sealed before it gets here."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from meterline.clock import EPOCH, to_datetime
from meterline.db import arrays
from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, TraceFlags

from meterline_ingest.domain.columns import UUID_DTYPE, Ids
from meterline_ingest.domain.limits import MAX_EVENT_ID
from meterline_ingest.domain.outcomes import Problem, Stage
from meterline_ingest.domain.quarantine import (
    ENTRY_BYTES,
    MAX_FIELD,
    MAX_NAME,
    Held,
    QuarantineFilter,
    State,
    cut,
)
from meterline_ingest.repository.writing import signed, unsigned

if TYPE_CHECKING:
    from meterline_ingest.domain.data_keys import Resealed

queries = Queries("meterline_ingest.repository", "quarantine.sql")

TABLE: Final = "quarantine"
PAYLOAD: Final = "payload"

Key = tuple[int, bytes]
"""Tenant and id of the entry."""

Place = tuple[datetime, uuid.UUID]
"""Of an entry in the order of first receipt."""


@dataclass(slots=True)
class Entry:
    """A rejected event to keep. `payload` is sealed.

    tenant: the tenant's name, for metrics
    rows: where it stands in its flush; more than once when it was sent more than once
    """

    tenant_id: int
    tenant: str
    quarantine_id: bytes
    source: str
    event_id: str
    event_type: str
    problem: Problem
    payload: bytes
    received_at_us: int
    sent_at_us: int | None
    trace: SpanContext
    rows: list[int] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.tenant_id, self.quarantine_id

    @property
    def needs(self) -> Held:
        """What it takes of the tenant's room."""
        return Held(1, len(self.payload) + ENTRY_BYTES)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An entry as it is stored, but for its payload, which has `size` bytes."""

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


async def held(connection: Connection, tenant_ids: Collection[int]) -> dict[int, Held]:
    """What is kept of each tenant's; a tenant that never had an entry is left out."""
    cursor = await connection.execute(queries.held, (sorted(tenant_ids),), binary=True)
    return {tenant_id: Held(*values) for tenant_id, *values in await cursor.fetchall()}


async def known(connection: Connection, keys: Collection[Key]) -> set[Key]:
    """Those of `keys` that are there, and are not to wait anew."""
    ordered = sorted(keys)
    cursor = await connection.execute(queries.known, _keys(ordered), binary=True)
    return {(tenant_id, quarantine_id.bytes) for tenant_id, quarantine_id in await cursor.fetchall()}


async def keep(connection: Connection, entries: Collection[Entry]) -> None:
    """Adds entries of different keys. One that is there already counts one more attempt."""
    ordered = sorted(entries, key=lambda entry: entry.key)
    traces = [entry.trace for entry in ordered]
    parameters = (
        *_keys([entry.key for entry in ordered]),
        arrays.timestamptz_array(np.array([entry.received_at_us for entry in ordered])),
        [None if entry.sent_at_us is None else to_datetime(entry.sent_at_us) for entry in ordered],
        [uuid.UUID(int=trace.trace_id) if trace.is_valid else None for trace in traces],
        [signed(trace.span_id) if trace.is_valid else None for trace in traces],
        [trace.trace_flags.sampled for trace in traces],
        arrays.int4_array(np.array([len(entry.rows) for entry in ordered])),
        arrays.text_array([entry.problem.stage for entry in ordered]),
        arrays.text_array([entry.source for entry in ordered]),
        arrays.text_array([cut(entry.event_id, MAX_EVENT_ID) for entry in ordered]),
        arrays.text_array([cut(entry.event_type, MAX_NAME) for entry in ordered]),
        arrays.text_array([entry.problem.reason for entry in ordered]),
        arrays.text_array([cut(entry.problem.field, MAX_FIELD) for entry in ordered]),
        arrays.text_array([entry.problem.message for entry in ordered]),
        arrays.bytea_array([entry.payload for entry in ordered]),
    )
    await connection.execute(queries.keep, parameters)


async def page(
    connection: Connection,
    tenant_id: int,
    chosen: QuarantineFilter,
    state: State,
    after: Place | None,
    limit: int,
) -> list[Quarantined]:
    """In the order of first receipt, from beyond `after`."""
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
    """In whatever state it is."""
    cursor = await connection.execute(queries.find, (tenant_id, quarantine_id), binary=True)
    row = await cursor.fetchone()
    return _quarantined(row) if row else None


async def payloads(
    connection: Connection, tenant_id: int, ids: Collection[uuid.UUID]
) -> dict[uuid.UUID, bytes]:
    """Sealed."""
    cursor = await connection.execute(queries.payloads, (tenant_id, list(ids)), binary=True)
    return dict(await cursor.fetchall())


async def mark_replayed(connection: Connection, tenant_id: int, ids: Collection[uuid.UUID], by: str) -> None:
    await connection.execute(queries.mark_replayed, {"tenant_id": tenant_id, "ids": list(ids), "by": by})


async def judge_again(connection: Connection, tenant_id: int, found: Mapping[uuid.UUID, Problem]) -> None:
    """Gives those that still wait their new problems."""
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
    """Deletes a tenant's entries that were first received so long ago; returns how many."""
    parameters = {"tenant_id": tenant_id, "age": age, "limit": limit}
    return (await connection.execute(queries.forget_waiting, parameters)).rowcount


async def forget_oldest(connection: Connection, tenant_id: int, excess: int, limit: int) -> int:
    """Deletes the entries that were settled first, until they had `excess` bytes; returns how many."""
    parameters = {"tenant_id": tenant_id, "excess": excess, "limit": limit}
    return (await connection.execute(queries.forget_oldest, parameters)).rowcount


class QuarantineCounts:
    """What concerns the entries of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(self) -> int:
        ((count,),) = await self._database.fetch(queries.all_waiting, tenants=ALL_TENANTS)
        return int(count)

    async def most(self) -> Held:
        """The most that any tenant has, of either."""
        ((waiting, size),) = await self._database.fetch(queries.most_held, tenants=ALL_TENANTS)
        return Held(waiting, size)

    async def larger_than(self, size: int) -> list[tuple[int, int]]:
        """Tenants that have more bytes, and how many these are."""
        rows = await self._database.fetch(queries.larger_than, (size,), ALL_TENANTS)
        return [(tenant_id, held) for tenant_id, held in rows]

    async def tenants(self) -> list[int]:
        """Those that have entries that wait."""
        rows = await self._database.fetch(queries.tenants_waiting, tenants=ALL_TENANTS)
        return [tenant_id for (tenant_id,) in rows]

    async def forget_settled(self, age: timedelta, limit: int) -> int:
        """Deletes entries that were settled so long ago; returns how many."""
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
        """(row, value) of a tenant's values that are less than `before`, in rows beyond `after`, by row."""
        beyond = uuid.UUID(bytes=after or bytes(16))
        cursor = await connection.execute(
            queries.earlier_payloads, (tenant_id, before, beyond, limit), binary=True
        )
        return [(quarantine_id.bytes, payload) for quarantine_id, payload in await cursor.fetchall()]

    async def replace(self, connection: Connection, tenant_id: int, values: Sequence[Resealed]) -> int:
        """Stores each, unless the value is no longer what was found; answers how many."""
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


def _keys(ordered: Sequence[Key]) -> tuple[arrays.Binary, arrays.Binary]:
    tenant_ids = np.array([tenant_id for tenant_id, _ in ordered])
    return arrays.int4_array(tenant_ids), arrays.uuid_array(_ids([each for _, each in ordered]))


def _ids(raw: Sequence[bytes]) -> Ids:
    return np.frombuffer(b"".join(raw), UUID_DTYPE)


def _quarantined(row: Sequence[Any]) -> Quarantined:
    return Quarantined(_trace(*row[:3]), State(row[3]), Stage(row[4]), *row[5:])


def _trace(trace_id: uuid.UUID | None, span_id: int, sampled: bool) -> SpanContext:
    if trace_id is None:
        return INVALID_SPAN_CONTEXT
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(trace_id.int, unsigned(span_id), is_remote=True, trace_flags=flags)
