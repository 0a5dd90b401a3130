"""One function an RPC: what it does, in one transaction, in the words of the domain."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from meterline.db.unit_of_work import UnitOfWork
from meterline.errors import InvalidArgumentError, NotFoundError
from meterline.tenants import TenantReplica

from meterline_ingest.domain import event_ids
from meterline_ingest.domain.event_types import EventType
from meterline_ingest.domain.limits import MAX_SOURCE
from meterline_ingest.domain.type_book import NOBODY
from meterline_ingest.registry import TypeRegistry
from meterline_ingest.repository.event_types import EventTypeRepository, Version
from meterline_ingest.repository.reading import EventFilter, EventReader, StoredBatch, StoredEvent


async def put_event_type(
    unit_of_work: UnitOfWork,
    tenants: TenantReplica,
    repository: EventTypeRepository,
    registry: TypeRegistry,
    slug: str,
    wanted: EventType,
    changed_by: str,
) -> EventType:
    """Creates a type or adds to it, for a tenant, or for all when `slug` is empty.

    Raises FailedPreconditionError when it would change what is there, NotFoundError for an unknown tenant.
    """
    if len(changed_by) > MAX_SOURCE or "\0" in changed_by:
        raise InvalidArgumentError("changed_by", f"at most {MAX_SOURCE} characters, no NUL")
    owner = await _owner(tenants, slug)
    async with unit_of_work.begin() as transaction:
        book = await repository.locked(transaction.connection)
        grown = book.accept(owner, wanted)
        known = book.common if owner == NOBODY else book.own.get(owner, {})
        if grown != known.get(wanted.name):
            await repository.put(transaction.connection, owner, grown, changed_by)
            transaction.after_commit(registry.forget)
            await transaction.commit()
    return grown


async def list_event_types(tenants: TenantReplica, registry: TypeRegistry, slug: str) -> list[EventType]:
    """What a tenant may send; the operator's types when `slug` is empty."""
    owner = await _owner(tenants, slug)
    registry.forget()
    return (await registry.current()).visible_to(owner)


async def list_event_type_versions(
    tenants: TenantReplica, repository: EventTypeRepository, slug: str, name: str
) -> list[Version]:
    """Raises NotFoundError, also for another tenant's type."""
    versions = await repository.versions(await _owner(tenants, slug), name)
    if not versions:
        raise NotFoundError("event type", name)
    return versions


async def _owner(tenants: TenantReplica, slug: str) -> int:
    return (await tenants.get(slug)).tenant_id if slug else NOBODY


async def get_event(
    tenants: TenantReplica, reader: EventReader, slug: str, event_id: str, source: str
) -> tuple[StoredEvent, StoredBatch]:
    """Raises NotFoundError, also for an event of another tenant."""
    tenant = await tenants.get(slug)
    raw, _ = event_ids.parse_one(source, event_id)
    event = await reader.find(tenant.tenant_id, uuid.UUID(bytes=raw))
    if event is None:
        raise NotFoundError("event", event_id)
    (batch,) = await reader.batches(tenant.tenant_id, [event.batch_id])
    return event, batch


async def list_events(
    tenants: TenantReplica,
    reader: EventReader,
    slug: str,
    chosen: EventFilter,
    after: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[StoredEvent]:
    tenant = await tenants.get(slug)
    return await reader.select(tenant.tenant_id, chosen, after, limit)


async def get_batches(
    tenants: TenantReplica, reader: EventReader, slug: str, batch_ids: Sequence[uuid.UUID]
) -> list[StoredBatch]:
    tenant = await tenants.get(slug)
    return await reader.batches(tenant.tenant_id, batch_ids)


async def get_totals(tenants: TenantReplica, reader: EventReader, slug: str) -> dict[str, int]:
    """Accepted events by tenant; of one tenant, or of all when `slug` is empty."""
    if slug:
        tenant = await tenants.get(slug)
        totals = await reader.totals(tenant.tenant_id)
        return {slug: totals.get(tenant.tenant_id, 0)}
    names = {tenant.tenant_id: tenant.slug for tenant in await tenants.all()}
    return {names[number]: count for number, count in (await reader.totals(None)).items() if number in names}


async def replay(reader: EventReader, start: datetime, end: datetime) -> int:
    """Messages of [start, end) go out again with the ids they had."""
    if start >= end:
        raise InvalidArgumentError("range", "start_time before end_time")
    return await reader.replay(start, end)
