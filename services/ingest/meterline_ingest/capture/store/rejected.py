"""Rejected events of a flush, stored with its good ones. Payloads are sealed before they get here."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from meterline.clock import to_datetime
from meterline.db import arrays
from meterline.db.pool import Connection
from meterline.db.queries import Queries
from opentelemetry.trace import SpanContext

from meterline_ingest.capture.rules.rejected import ENTRY_BYTES, MAX_FIELD, MAX_NAME, Held, cut
from meterline_ingest.capture.store.events import signed
from meterline_ingest.event.bounds import MAX_EVENT_ID
from meterline_ingest.event.columns import UUID_DTYPE, Ids
from meterline_ingest.event.outcomes import Problem

queries = Queries("meterline_ingest.capture.store", "rejected.sql")

TABLE: Final = "quarantine"

PAYLOAD: Final = "payload"

Key = tuple[int, bytes]
"""Tenant and id of the entry."""


@dataclass(slots=True)
class Entry:
    """A rejected event to keep. `payload` is sealed.

    tenant: the tenant's name, for metrics
    rows: its positions in the flush; several when it was sent more than once
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
        """The room that it takes of its tenant's."""
        return Held(1, len(self.payload) + ENTRY_BYTES)


async def held(connection: Connection, tenant_ids: Collection[int]) -> dict[int, Held]:
    """What each tenant has in quarantine; a tenant that never had an entry is left out."""
    cursor = await connection.execute(queries.held, (sorted(tenant_ids),), binary=True)
    return {tenant_id: Held(*values) for tenant_id, *values in await cursor.fetchall()}


async def known(connection: Connection, keys: Collection[Key]) -> set[Key]:
    """Those of `keys` that are stored and not discarded: keeping a discarded one makes it wait again."""
    ordered = sorted(keys)
    cursor = await connection.execute(queries.known, _keys(ordered), binary=True)
    return {(tenant_id, quarantine_id.bytes) for tenant_id, quarantine_id in await cursor.fetchall()}


async def keep(connection: Connection, entries: Collection[Entry]) -> None:
    """Adds entries of different keys. One that is stored already counts more attempts."""
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


def _keys(ordered: Sequence[Key]) -> tuple[arrays.Binary, arrays.Binary]:
    tenant_ids = np.array([tenant_id for tenant_id, _ in ordered])
    return arrays.int4_array(tenant_ids), arrays.uuid_array(_ids([each for _, each in ordered]))


def _ids(raw: Sequence[bytes]) -> Ids:
    return np.frombuffer(b"".join(raw), UUID_DTYPE)
