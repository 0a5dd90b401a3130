"""Corrects one event: amends or retracts it."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Final

from meterline.clock import EPOCH
from meterline.crashpoints import crash_point
from meterline.db.pool import Connection, Database
from meterline.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from meterline.tenants import Tenant, TenantReplica
from meterline.transactions.unit_of_work import Transaction, UnitOfWork

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import EVENT_AMENDED, EVENT_RETRACTED, ChangeRequest
from meterline_ingest.capture.details import Keyrings
from meterline_ingest.corrections.corrector import Batch, Corrector, Prepared
from meterline_ingest.corrections.dry_run import Effects
from meterline_ingest.corrections.rules.changes import Changes, Failure, Kind
from meterline_ingest.corrections.rules.effects import Effect
from meterline_ingest.corrections.rules.history import Correction, CorrectionFilter, CorrectionKey
from meterline_ingest.corrections.store import corrections, current
from meterline_ingest.corrections.store.corrections import Request
from meterline_ingest.corrections.store.current import Current
from meterline_ingest.event import ids

# Attempts, when others correct the same event at the same time.
ATTEMPTS: Final = 5

_NOWHERE: Final = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Call:
    """A request to correct: its id, who asks for it and why.

    body: its content, so that the same id cannot mean another request
    """

    correction_id: uuid.UUID
    change: ChangeRequest
    body: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """`revision`: how often the event must have been corrected before; None: any number."""

    source: str
    event_id: str
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class CorrectionContext:
    """What corrections of one and of many events share. One for each process."""

    database: Database
    unit_of_work: UnitOfWork
    tenants: TenantReplica
    keys: Keyrings
    corrector: Corrector
    effects: Effects

    async def digest(self, tenant_id: int, changes: Changes | None, body: bytes) -> uuid.UUID:
        """The digest of the call; keyed if its values may be sensitive, so that it reveals none."""
        if changes is not None and changes.properties:
            keyring = (await self.keys.keyrings([tenant_id]))[tenant_id]
            return uuid.UUID(bytes=keyring.fingerprint(body))
        return uuid.UUID(bytes=hashlib.blake2b(body, digest_size=16, person=b"meterline.call").digest())


async def correct_event(
    context: CorrectionContext, slug: str, target: Target, changes: Changes | None, call: Call
) -> Correction | None:
    """Amends an event or, without changes, retracts it. None: there was nothing to change.

    Raises NotFoundError, InvalidArgumentError, FailedPreconditionError, AbortedError, AlreadyExistsError.
    """
    tenant = await context.tenants.get(slug)
    digest = await context.digest(tenant.tenant_id, changes, call.body)
    for _ in range(ATTEMPTS):
        async with context.database.connection([tenant.tenant_id]) as connection:
            if await known(connection, tenant.tenant_id, call.correction_id, digest) is not None:
                return await _made(connection, tenant.tenant_id, call.correction_id)
        _, prepared = await _prepare(context, tenant, target, changes)
        if not prepared.revisions:
            return None
        batch = await context.corrector.batch(tenant.tenant_id, prepared)
        async with context.unit_of_work.begin([tenant.tenant_id]) as transaction:
            try:
                if await _store(context, transaction, tenant.tenant_id, batch, call, digest):
                    await commit(transaction)
                    return await _read_back(context, tenant.tenant_id, call.correction_id)
            except AbortedError:
                continue
    raise AbortedError("others are correcting the same event")


async def preview_correction(
    context: CorrectionContext, slug: str, target: Target, changes: Changes | None, call: Call
) -> tuple[Correction | None, Effect]:
    """What `correct_event` would do. Raises the same errors."""
    tenant = await context.tenants.get(slug)
    event, prepared = await _prepare(context, tenant, target, changes)
    effect = Effect()
    await add_effect(context, effect, tenant, prepared)
    await context.effects.finish(effect, slug)
    if not prepared.revisions:
        return None, effect
    (revision,) = prepared.revisions
    would_be = Correction(
        event.event_id,
        revision.number,
        call.correction_id,
        prepared.kind,
        revision.current.content,
        revision.after,
        _NOWHERE,
        event.batch_id,
        EPOCH,
        call.change.requested_by,
        call.change.reason,
        event.text_id,
    )
    return would_be, effect


async def list_corrections(
    context: CorrectionContext, slug: str, chosen: CorrectionFilter, before: CorrectionKey | None, limit: int
) -> list[Correction]:
    """The newest first. Raises NotFoundError for an unknown tenant."""
    tenant_id = (await context.tenants.get(slug)).tenant_id
    async with context.database.connection([tenant_id]) as connection:
        return await corrections.page(connection, tenant_id, chosen, before, limit)


async def known(
    connection: Connection, tenant_id: int, correction_id: uuid.UUID, digest: uuid.UUID
) -> Request | None:
    """The call, if it was made before. Raises AlreadyExistsError if that had another content."""
    request = await corrections.find_request(connection, tenant_id, correction_id)
    if request is not None and request.digest != digest:
        raise AlreadyExistsError("correction", str(correction_id), "it asked for something else")
    return request


async def add_effect(context: CorrectionContext, effect: Effect, tenant: Tenant, prepared: Prepared) -> None:
    """Adds the effects of the prepared corrections."""
    rows = prepared.rows()
    if rows:
        message = await context.corrector.message(tenant.tenant_id, _NOWHERE, rows, 0)
        retracted = sum(row.retracted for row in rows)
        await context.effects.add(
            effect, tenant.slug, message, retracted=retracted, added=len(rows) - retracted
        )


async def commit(transaction: Transaction) -> None:
    crash_point("ingest.correct.before_commit")
    await transaction.commit()
    crash_point("ingest.correct.after_commit")


async def _prepare(
    context: CorrectionContext, tenant: Tenant, target: Target, changes: Changes | None
) -> tuple[Current, Prepared]:
    raw, is_uuid = ids.parse_one(target.source, target.event_id)
    async with context.database.connection([tenant.tenant_id]) as connection:
        found = await current.read(connection, tenant.tenant_id, [uuid.UUID(bytes=raw)])
    if not found:
        raise NotFoundError("event", target.event_id, ids.hint(target.source, is_uuid=is_uuid))
    (event,) = found
    if target.revision not in (None, event.revision):
        raise AbortedError(f"the event has had {event.revision} corrections, not {target.revision}")
    prepared = await context.corrector.prepare(tenant, [event], changes)
    for failure in prepared.failures:
        raise _refusal(failure)
    return event, prepared


def _refusal(failure: Failure) -> FailedPreconditionError | InvalidArgumentError:
    if failure.reason == "RETRACTED":
        return FailedPreconditionError(f"event {failure.event_id}", "was retracted")
    return InvalidArgumentError(f"changes.{failure.field}", failure.message, failure.reason)


async def _store(
    context: CorrectionContext,
    transaction: Transaction,
    tenant_id: int,
    batch: Batch,
    call: Call,
    digest: uuid.UUID,
) -> bool:
    """False when the same call was made at the same time. Raises AbortedError when another one was."""
    connection, change = transaction.connection, call.change
    new = await corrections.add_request(
        connection, tenant_id, call.correction_id, digest, change.requested_by, change.reason, None
    )
    if not new:
        return False
    await context.corrector.store(transaction, tenant_id, call.correction_id, batch)
    (revision,) = batch.prepared.revisions
    await audit_store.record(
        connection,
        tenant_id,
        action=EVENT_AMENDED if batch.prepared.kind is Kind.AMENDED else EVENT_RETRACTED,
        subject=f"event {revision.current.sent_id}",
        principal=change.requested_by,
        reason=change.reason,
        details={"correction_id": str(call.correction_id), "revision": revision.number},
    )
    return True


async def _made(connection: Connection, tenant_id: int, correction_id: uuid.UUID) -> Correction | None:
    chosen = CorrectionFilter(correction_id=correction_id)
    found = await corrections.page(connection, tenant_id, chosen, None, 1)
    return found[0] if found else None


async def _read_back(
    context: CorrectionContext, tenant_id: int, correction_id: uuid.UUID
) -> Correction | None:
    async with context.database.connection([tenant_id]) as connection:
        return await _made(connection, tenant_id, correction_id)
