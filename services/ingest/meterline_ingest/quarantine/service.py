"""Lists, shows and discards rejected events."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from meterline.clock import Clock, to_datetime
from meterline.db.pool import Database
from meterline.errors import NotFoundError, ShreddedError
from meterline.tenants import Tenant, TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import QUARANTINE_DISCARDED, QUARANTINE_UNSEALED, ChangeRequest
from meterline_ingest.capture.rules.rejected import Held
from meterline_ingest.capture.store import rejected
from meterline_ingest.capture.store.rejected import PAYLOAD, TABLE
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.event_types.rules.types import EventType
from meterline_ingest.keys.vault import Vault
from meterline_ingest.quarantine import store
from meterline_ingest.quarantine.rules import QuarantineFilter, State
from meterline_ingest.quarantine.store import Place, Quarantined

PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class QuarantineAccess:
    """What reading and settling entries needs."""

    database: Database
    unit_of_work: UnitOfWork
    tenants: TenantReplica
    vault: Vault
    clock: Clock

    async def pages(self, tenant_id: int, chosen: QuarantineFilter) -> AsyncIterator[list[Quarantined]]:
        """All entries that wait now, page by page, each once; skips what arrives meanwhile, so that this
        ends."""
        now = to_datetime(self.clock.now_us()) + timedelta(microseconds=1)
        bounded = replace(chosen, end=now if chosen.end is None else min(chosen.end, now))
        after: Place | None = None
        while True:
            async with self.database.connection([tenant_id]) as connection:
                page = await store.page(connection, tenant_id, bounded, State.WAITING, after, PAGE)
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1].place


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of entries. `waiting` counts all of the tenant's; `shredded`: none of them can be read."""

    entries: list[Quarantined]
    waiting: int
    shredded: bool


@dataclass(frozen=True, slots=True)
class Content:
    """An entry with its payload, which is None when the keys are destroyed.

    definition: the tenant's definition of its event type
    """

    entry: Quarantined
    payload: bytes | None
    definition: EventType | None


async def list_quarantined(
    access: QuarantineAccess,
    slug: str,
    chosen: QuarantineFilter,
    state: State,
    after: Place | None,
    limit: int,
) -> Listing:
    """In the order of first receipt. Raises NotFoundError."""
    tenant_id = (await access.tenants.get(slug)).tenant_id
    async with access.database.connection([tenant_id]) as connection:
        entries = await store.page(connection, tenant_id, chosen, state, after, limit)
        held = (await rejected.held(connection, [tenant_id])).get(tenant_id, Held())
        keyring = await access.vault.keyring(connection, tenant_id, create=False)
    return Listing(entries, held.waiting, keyring.shredded)


async def get_quarantined(
    access: QuarantineAccess,
    types: TypeRegistry,
    slug: str,
    quarantine_id: uuid.UUID,
    unsealing: ChangeRequest | None,
) -> Content:
    """One entry and its payload. `unsealing`: who wants to see all of it, and why, which is audited first.

    Raises NotFoundError, also for an entry of another tenant; TamperedError; ShreddedError when `unsealing`
    is given and the keys are destroyed.
    """
    tenant = await access.tenants.get(slug)
    async with access.unit_of_work.begin([tenant.tenant_id]) as transaction:
        connection = transaction.connection
        entry = await store.find(connection, tenant.tenant_id, quarantine_id)
        sealed = await store.payloads(connection, tenant.tenant_id, [quarantine_id])
        if entry is None or quarantine_id not in sealed:
            raise NotFoundError("quarantined event", quarantine_id.hex)
        keyring = await access.vault.keyring(connection, tenant.tenant_id)
        try:
            payload = keyring.unseal(TABLE, PAYLOAD, quarantine_id.bytes, sealed[quarantine_id])
        except ShreddedError:
            if unsealing is not None:
                raise
            return Content(entry, None, None)
        if unsealing is not None:
            await audit_store.record(
                connection,
                tenant.tenant_id,
                action=QUARANTINE_UNSEALED,
                subject=f"quarantined event {quarantine_id.hex}",
                principal=unsealing.requested_by,
                reason=unsealing.reason,
                details={"event_id": entry.event_id, "event_type": entry.event_type},
            )
            await transaction.commit()
    book = await types.current({entry.event_type})
    return Content(entry, payload, book.find(tenant.tenant_id, entry.event_type))


async def discard_quarantined(
    access: QuarantineAccess, slug: str, chosen: QuarantineFilter, change: ChangeRequest
) -> int:
    """Discards waiting entries, page by page; returns how many. Raises NotFoundError."""
    tenant = await access.tenants.get(slug)
    discarded = 0
    async for page in access.pages(tenant.tenant_id, chosen):
        discarded += await _discard(access, tenant, page, change)
    return discarded


async def _discard(
    access: QuarantineAccess, tenant: Tenant, page: list[Quarantined], change: ChangeRequest
) -> int:
    async with access.unit_of_work.begin([tenant.tenant_id]) as transaction:
        ids = [entry.quarantine_id for entry in page]
        count = await store.discard(transaction.connection, tenant.tenant_id, ids, change.requested_by)
        if count:
            await audit_store.record(
                transaction.connection,
                tenant.tenant_id,
                action=QUARANTINE_DISCARDED,
                subject=f"tenant {tenant.slug}",
                principal=change.requested_by,
                reason=change.reason,
                details={"events": count},
            )
            await transaction.commit()
    return count
