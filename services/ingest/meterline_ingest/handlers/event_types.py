"""Registering event types."""

from __future__ import annotations

from meterline.db.scope import ALL_TENANTS
from meterline.db.unit_of_work import UnitOfWork
from meterline.errors import InvalidArgumentError, NotFoundError
from meterline.tenants import TenantReplica

from meterline_ingest.domain.descriptions import Description, describe
from meterline_ingest.domain.event_types import EventType
from meterline_ingest.domain.limits import MAX_SOURCE
from meterline_ingest.domain.type_book import NOBODY
from meterline_ingest.registry import TypeRegistry
from meterline_ingest.repository.event_types import EventTypeRepository, Version


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
    if len(changed_by) > MAX_SOURCE:
        raise InvalidArgumentError("changed_by", f"at most {MAX_SOURCE} characters")
    owner = await _owner(tenants, slug)
    async with unit_of_work.begin(ALL_TENANTS) as transaction:
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


async def describe_event_type(registry: TypeRegistry, name: str) -> Description:
    """What events of this name may carry, whoever's type it is. Raises NotFoundError."""
    registry.forget()
    found = describe((await registry.current()).named(name))
    if found is None:
        raise NotFoundError("event type", name)
    return found


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
