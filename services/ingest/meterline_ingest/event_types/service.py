"""Registers, archives and deletes event types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from meterline.db.scope import ALL_TENANTS
from meterline.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_ingest.event.bounds import MAX_SOURCE
from meterline_ingest.event.names import NOBODY
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.event_types.rules.descriptions import Description, describe
from meterline_ingest.event_types.rules.types import EventType
from meterline_ingest.event_types.store import EventTypeRepository, Needs, Version


@dataclass(frozen=True, slots=True)
class TypeStore:
    """What functions that change types need."""

    unit_of_work: UnitOfWork
    tenants: TenantReplica
    repository: EventTypeRepository
    registry: TypeRegistry


async def put_event_type(store: TypeStore, slug: str, wanted: EventType, changed_by: str) -> EventType:
    """Creates a type or adds to it, for a tenant, or for all when `slug` is empty.

    Raises FailedPreconditionError when it would change existing fields, NotFoundError for an unknown tenant.
    """
    _check_author(changed_by)
    owner = await _owner(store.tenants, slug)
    async with store.unit_of_work.begin(ALL_TENANTS) as transaction:
        book = await store.repository.locked(transaction.connection)
        grown = book.accept(owner, wanted)
        known = book.of_owner(owner).get(wanted.name)
        if known is None or grown != known:
            await store.repository.put(transaction.connection, owner, grown, changed_by)
            transaction.after_commit(store.registry.forget)
            await transaction.commit()
    return grown if known is None else replace(grown, archived_at=known.archived_at)


async def archive_event_type(
    store: TypeStore, slug: str, name: str, changed_by: str, *, archived: bool
) -> EventType:
    """Archives a type, which then takes no new events, or restores it. Changes nothing if it is so already.

    Raises NotFoundError for an unknown tenant or type.
    """
    _check_author(changed_by)
    owner = await _owner(store.tenants, slug)
    async with store.unit_of_work.begin(ALL_TENANTS) as transaction:
        known = _known((await store.repository.locked(transaction.connection)).of_owner(owner), name)
        if (known.archived_at is not None) is not archived:
            connection = transaction.connection
            known = await store.repository.archive(connection, owner, known, changed_by, archived=archived)
            transaction.after_commit(store.registry.forget)
            await transaction.commit()
    return known


async def delete_event_type(store: TypeStore, slug: str, name: str, changed_by: str) -> None:
    """Deletes a type that no event, timer or quarantined event needs.

    A transaction that adds the first series or a timer of a type locks its row (`store.held`): either this
    function sees the addition, or that transaction sees the deletion. Quarantined events lock nothing: they
    may wait for a type that does not exist.

    Raises NotFoundError for an unknown tenant or type, FailedPreconditionError.
    """
    _check_author(changed_by)
    owner = await _owner(store.tenants, slug)
    async with store.unit_of_work.begin(ALL_TENANTS) as transaction:
        known = _known((await store.repository.locked(transaction.connection)).of_owner(owner), name)
        needs = await store.repository.delete(transaction.connection, owner, known, changed_by)
        _refuse_needed(name, needs)
        transaction.after_commit(store.registry.forget)
        await transaction.commit()


async def list_event_types(tenants: TenantReplica, registry: TypeRegistry, slug: str) -> list[EventType]:
    """The types that a tenant may send; the operator's when `slug` is empty."""
    owner = await _owner(tenants, slug)
    registry.forget()
    return (await registry.current()).visible_to(owner)


async def describe_event_type(registry: TypeRegistry, name: str) -> Description:
    """The fields of events of this name, of all owners' types. Raises NotFoundError."""
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


def _check_author(changed_by: str) -> None:
    if len(changed_by) > MAX_SOURCE:
        raise InvalidArgumentError("changed_by", f"at most {MAX_SOURCE} characters")


def _known(types: Mapping[str, EventType], name: str) -> EventType:
    if name not in types:
        raise NotFoundError("event type", name)
    return types[name]


def _refuse_needed(name: str, needs: Needs) -> None:
    for needed, rule in (
        (needs.events, "events of it were taken in; archive it"),
        (needs.timers, "timers of it have not ended"),
        (needs.quarantined, "events of it wait in quarantine; replay or discard them"),
    ):
        if needed:
            raise FailedPreconditionError(f"event type {name}", rule, "TYPE_HAS_EVENTS")


async def _owner(tenants: TenantReplica, slug: str) -> int:
    return (await tenants.get(slug)).tenant_id if slug else NOBODY
