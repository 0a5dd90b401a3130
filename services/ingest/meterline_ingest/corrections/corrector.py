"""Corrects a few events: computes the replacement of each, and stores all in one transaction.

It is to corrections what `capture.pipeline` and `capture.transaction` are to reports: the same rules judge,
and the same message reports the result.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

import numpy as np
from meterline.bus import subjects
from meterline.clock import Clock
from meterline.errors import AbortedError
from meterline.ids import new_id
from meterline.telemetry import metrics, propagation
from meterline.tenants import Tenant
from meterline.transactions.unit_of_work import Transaction
from opentelemetry import trace

from meterline_ingest.capture.details import Keyrings, Sealer, to_text
from meterline_ingest.capture.numbering import Numbering
from meterline_ingest.capture.rules.validation import Check, Checked
from meterline_ingest.capture.store.events import BatchRow, EventWriter
from meterline_ingest.catalogue.store import CatalogueReader
from meterline_ingest.corrections.correction_message import events_corrected
from meterline_ingest.corrections.rules.changes import (
    Changes,
    Failure,
    Kind,
    SignedRow,
    draft,
    judged,
    to_columns,
)
from meterline_ingest.corrections.store import corrections
from meterline_ingest.corrections.store.corrections import Revision
from meterline_ingest.corrections.store.current import CORRECTIONS, SEALED, Current, sealed_row
from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event.bounds import TimeLimits
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.event_types.rules.types import EventType

# The source of batches of corrections.
SOURCE = "corrections"

Secrets = Mapping[str, str]


@dataclass(slots=True)
class Prepared:
    """Corrections to make, and failures. `changes` None: retractions."""

    changes: Changes | None
    revisions: list[Revision] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unchanged: int = 0

    @property
    def kind(self) -> Kind:
        return Kind.RETRACTED if self.changes is None else Kind.AMENDED

    def rows(self) -> list[SignedRow]:
        """As `corrections.signed_rows` reads them."""
        ordered = sorted(self.revisions, key=lambda each: each.current.event_id)
        taken = [
            SignedRow(
                each.current.event_id, each.current.content, each.number, retracted_from=each.current.batch_id
            )
            for each in ordered
        ]
        added = [
            SignedRow(each.current.event_id, each.after, each.number)
            for each in ordered
            if each.after is not None
        ]
        return taken + added


@dataclass(frozen=True, slots=True)
class Batch:
    """Corrections, ready to store with the message that reports them."""

    prepared: Prepared
    batch_id: uuid.UUID
    row: BatchRow
    message: bytes


class Corrector:
    """One for each process."""

    def __init__(
        self,
        types: TypeRegistry,
        catalogue: CatalogueReader,
        keys: Keyrings,
        numbering: Numbering,
        writer: EventWriter,
        clock: Clock,
        *,
        max_ahead: timedelta,
    ) -> None:
        self._types = types
        self._catalogue = catalogue
        self._keys = keys
        self._numbering = numbering
        self._writer = writer
        self._clock = clock
        self._limits = TimeLimits(0, max_ahead // timedelta(microseconds=1))

    async def prepare(self, tenant: Tenant, events: Sequence[Current], changes: Changes | None) -> Prepared:
        """Changes no event. `changes` None: prepares retractions. Raises ShreddedError."""
        prepared = Prepared(changes)
        left = []
        for event in events:
            if event.retracted:
                rule = "an event that was not retracted"
                prepared.failures.append(Failure(event.sent_id, "RETRACTED", "event_id", rule))
            else:
                left.append(event)
        if changes is None:
            prepared.revisions = [Revision(event, None) for event in left]
        elif left:
            await self._amend(prepared, tenant, left, changes)
        return prepared

    def now_us(self) -> int:
        return self._clock.now_us()

    async def message(
        self, tenant_id: int, batch_id: uuid.UUID, rows: Sequence[SignedRow], received_at_us: int
    ) -> bytes:
        """The message of a batch of corrections."""
        types = await self._types.current({row.content.event_type for row in rows})
        context = propagation.to_proto(trace.get_current_span().get_span_context())
        return events_corrected(tenant_id, batch_id.bytes, context, received_at_us, rows, types)

    async def batch(self, tenant_id: int, prepared: Prepared) -> Batch:
        """The batch and its message. Made before the transaction, which has only one connection."""
        batch_id, rows, now_us = new_id(), prepared.rows(), self._clock.now_us()
        (number,) = await self._writer.batch_numbers(1)
        message = await self.message(tenant_id, batch_id, rows, now_us)
        return Batch(prepared, batch_id, _batch_row(tenant_id, batch_id, number, rows, now_us), message)

    async def store(
        self, transaction: Transaction, tenant_id: int, correction_id: uuid.UUID, batch: Batch
    ) -> None:
        """Does everything but the commit. Raises AbortedError when other corrections came first."""
        revisions, kind = batch.prepared.revisions, batch.prepared.kind
        stored = await corrections.add(
            transaction.connection, tenant_id, correction_id, batch.batch_id, kind, revisions
        )
        if not stored:
            raise AbortedError("others are correcting the same events")
        envelope = transaction.emit(subjects.events_accepted(), batch.message)
        await self._writer.insert_batches(transaction.connection, [batch.row], envelope.message_id)
        corrected = metrics.CORRECTIONS.labels(kind.name.lower())
        transaction.after_commit(partial(corrected.inc, len(revisions)))

    async def _amend(
        self, prepared: Prepared, tenant: Tenant, events: Sequence[Current], changes: Changes
    ) -> None:
        tenant_id = tenant.tenant_id
        types = await self._types.current({event.content.event_type for event in events})
        definitions = [types.find(tenant_id, event.content.event_type) for event in events]
        keyring = await self._keyring(tenant_id, events, definitions)
        secrets = [_unsealed(keyring, event) for event in events]
        drafts = [
            draft(event.event_id, event.content, secret, definition, changes)
            for event, secret, definition in zip(events, secrets, definitions, strict=True)
        ]
        check = Check(to_columns(tenant.slug, drafts), {tenant.slug: tenant_id}, types)
        needed = check.entries_needed()
        checked = check.verdict(
            self._limits,
            self._clock.now_us(),
            await self._catalogue.find(needed) if needed else {},
            np.ones(len(drafts), np.bool_),
            new=False,
        )
        # The content after an amendment counts for the tenant's quotas like reported events.
        await self._numbering.number(checked, types)
        for row, (event, secret) in enumerate(zip(events, secrets, strict=True)):
            _apply_verdict(prepared, checked, row, event, secret, keyring)

    async def _keyring(
        self, tenant_id: int, events: Sequence[Current], definitions: Sequence[EventType | None]
    ) -> Sealer | None:
        """None when there is no sensitive value, nor can be."""
        if any(event.sealed for event in events) or any(each and each.sensitive for each in definitions):
            return (await self._keys.keyrings([tenant_id]))[tenant_id]
        return None


def _apply_verdict(
    prepared: Prepared, checked: Checked, row: int, event: Current, secret: Secrets, keyring: Sealer | None
) -> None:
    problem = checked.problems.by_row.get(row)
    if problem is not None:
        prepared.failures.append(Failure(event.sent_id, problem.reason, problem.field, problem.message))
        return
    after, sensitive = judged(checked, row, event.content)
    if after.is_same_content_as(event.content) and sensitive == secret:
        prepared.unchanged += 1
        return
    sealed = None
    if sensitive:
        assert keyring is not None, "sensitive properties need the tenant's key"
        place = sealed_row(event.event_id, event.revision + 1)
        sealed = keyring.seal(CORRECTIONS, SEALED, place, to_text(sensitive))
    before = replace(event, content=replace(event.content, sealed=tuple(sorted(secret))))
    prepared.revisions.append(Revision(before, after, sealed))


def _unsealed(keyring: Sealer | None, event: Current) -> Secrets:
    if event.sealed is None:
        return {}
    assert keyring is not None, "sensitive properties need the tenant's key"
    place = event.sealed
    found: Secrets = json.loads(keyring.unseal(place.table, place.column, place.row, place.value))
    return found


def _batch_row(
    tenant_id: int, batch_id: uuid.UUID, number: int, rows: Sequence[SignedRow], now_us: int
) -> BatchRow:
    times = [row.content.time_us for row in rows]
    retracted = sum(row.retracted for row in rows)
    return BatchRow(
        batch_id.bytes,
        tenant_id,
        number,
        SOURCE,
        len(rows) - retracted,
        now_us,
        None,
        0,
        BatchOrigin.CORRECTED,
        min(times),
        max(times),
        trace.get_current_span().get_span_context(),
        retracted,
    )
