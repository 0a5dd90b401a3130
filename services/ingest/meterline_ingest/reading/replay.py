"""Publishes messages again under the same ids. Those no longer in the outbox are rebuilt from raw events."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from meterline.bus import subjects
from meterline.clock import to_us
from meterline.db.pool import Connection
from meterline.db.scope import ALL_TENANTS
from meterline.errors import FailedPreconditionError
from meterline.telemetry import propagation
from meterline.tenants import Tenant
from meterline.transactions import outbox
from meterline.transactions.outbox import Envelope
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_ingest.capture.message_from_rows import events_accepted_again
from meterline_ingest.capture.store import messages
from meterline_ingest.capture.store.messages import MessageBatch, Messages
from meterline_ingest.corrections.correction_message import events_corrected
from meterline_ingest.corrections.store import corrections
from meterline_ingest.event import ids as event_ids
from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event_types.cache import TypeRegistry

# Messages a transaction; each holds the events of a flush.
CHUNK: Final = 16


@dataclass(frozen=True, slots=True)
class Replayed:
    """again: messages that are published again; waiting: those that were not published yet anyway"""

    again: int = 0
    waiting: int = 0

    def __add__(self, other: Replayed) -> Replayed:
        return Replayed(self.again + other.again, self.waiting + other.waiting)


class Replayer:
    """Every method returns what it found. Messages published before a failure stay published."""

    def __init__(self, unit_of_work: UnitOfWork, stored: Messages, types: TypeRegistry) -> None:
        self._unit_of_work = unit_of_work
        self._stored = stored
        self._types = types

    async def range(self, start: datetime, end: datetime) -> Replayed:
        """Replays commits in [start, end), of all tenants."""
        sent, after = Replayed(), _floor(start)
        while ids := await self._stored.of_time(after, end, CHUNK):
            sent += await self._send(ids)
            after = ids[-1]
        return sent

    async def events(self, tenant: Tenant, source: str, ids: Sequence[str]) -> Replayed:
        """Replays messages that carried these events; skips events that the tenant does not have."""
        raw = [uuid.UUID(bytes=event_ids.parse_one(source, text)[0]) for text in ids]
        return await self._send_all(await self._stored.of_events(tenant.tenant_id, raw))

    async def batches(self, tenant: Tenant, ids: Sequence[uuid.UUID]) -> Replayed:
        """Replays messages that carried these batches; skips batches that the tenant does not have."""
        return await self._send_all(await self._stored.of_batches(tenant.tenant_id, ids))

    async def _send_all(self, ids: Sequence[uuid.UUID]) -> Replayed:
        ordered, sent = sorted(ids), Replayed()
        for at in range(0, len(ordered), CHUNK):
            sent += await self._send(ordered[at : at + CHUNK])
        return sent

    async def _send(self, ids: Sequence[uuid.UUID]) -> Replayed:
        # A message may have batches of any tenants.
        async with self._unit_of_work.begin(ALL_TENANTS) as transaction:
            connection = transaction.connection
            there, sent = await outbox.publish_again(connection, ids)
            made = [await self._made(connection, each) for each in ids if each not in there]
            if made:
                await outbox.restore(connection, made)
            await transaction.commit()
        return Replayed(sent + len(made), len(there) - sent)

    async def _made(self, connection: Connection, message_id: uuid.UUID) -> Envelope:
        batches = await messages.batches(connection, message_id)
        if any(batch.origin is BatchOrigin.CORRECTED for batch in batches):
            # The rows of `events` do not contain what corrections retract and add.
            (batch,) = batches
            payload = await self._corrected(connection, batch)
            return Envelope(subjects.events_accepted(), payload, _headers(batches), message_id)
        rows = await messages.rows(connection, batches)
        if len(rows) != (expected := sum(batch.event_count for batch in batches)):
            gone = expected - len(rows)
            raise FailedPreconditionError(f"message {message_id}", f"{gone} of its events are deleted")
        types = await self._types.current({row.event_type for row in rows})
        payload = events_accepted_again(batches, rows, types)
        return Envelope(subjects.events_accepted(), payload, _headers(batches), message_id)

    async def _corrected(self, connection: Connection, batch: MessageBatch) -> bytes:
        rows = await corrections.signed_rows(connection, batch.tenant_id, batch.batch_id)
        types = await self._types.current({row.content.event_type for row in rows})
        return events_corrected(
            batch.tenant_id, batch.batch_id.bytes, batch.trace, batch.received_at_us, rows, types
        )


def _headers(batches: Sequence[MessageBatch]) -> dict[str, str]:
    """The trace of the first call, which the commit belonged to."""
    headers: dict[str, str] = {}
    propagation.inject_into(headers, propagation.context_of(propagation.to_span_context(batches[0].trace)))
    return headers


def _floor(moment: datetime) -> uuid.UUID:
    """An id before every message of `moment` or later. Message ids contain milliseconds."""
    return uuid.UUID(int=max(0, (to_us(moment) // 1_000 << 80) - 1))
