"""The tables of event types."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from psycopg.types.json import Jsonb

from meterline_ingest.event.names import NOBODY
from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.event_types.rules.types import EventType, TypeChange

queries = Queries("meterline_ingest.event_types", "store.sql")


@dataclass(frozen=True, slots=True)
class Version:
    """The type from `changed_at` on, and the change that made it."""

    version: int
    event_type: EventType
    changed_by: str
    changed_at: datetime
    change: TypeChange = TypeChange.PUT


@dataclass(frozen=True, slots=True)
class Needs:
    """What needs a type, of any tenant that has it."""

    events: bool
    timers: bool
    quarantined: bool


class EventTypeRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def last_change(self) -> int:
        """A number that rises with every change of any type; 0 before the first."""
        ((change,),) = await self._database.fetch(queries.last_event_type_change, tenants=ALL_TENANTS)
        return change or 0

    async def book(self) -> TypeBook:
        async with self._database.connection(ALL_TENANTS) as connection:
            return await _book(connection)

    async def locked(self, connection: Connection) -> TypeBook:
        """All types, locked against changes until the transaction, which must be for all tenants, ends."""
        await connection.execute(queries.lock_event_types)
        return await _book(connection)

    async def put(
        self, connection: Connection, tenant_id: int, event_type: EventType, changed_by: str
    ) -> None:
        """Adds a version; `tenant_id` is 0 for the operator's types."""
        parameters = _parameters(tenant_id, event_type)
        put = queries.put_event_type if tenant_id == NOBODY else queries.put_own_event_type
        cursor = await connection.execute(put, parameters)
        ((version,),) = await cursor.fetchall()
        await _add_version(connection, parameters, version, TypeChange.PUT, changed_by)

    async def archive(
        self,
        connection: Connection,
        tenant_id: int,
        event_type: EventType,
        changed_by: str,
        *,
        archived: bool,
    ) -> EventType:
        """Archives or restores an existing type, and adds a version. Returns the changed type."""
        parameters = _parameters(tenant_id, event_type)
        change = queries.archive_event_type if tenant_id == NOBODY else queries.archive_own_event_type
        cursor = await connection.execute(change, {**parameters, "archived": archived})
        ((version, archived_at),) = await cursor.fetchall()
        kind = TypeChange.ARCHIVED if archived else TypeChange.RESTORED
        await _add_version(connection, parameters, version, kind, changed_by)
        return replace(event_type, archived_at=archived_at)

    async def delete(
        self, connection: Connection, tenant_id: int, event_type: EventType, changed_by: str
    ) -> Needs:
        """Deletes an existing type, and adds a version; waits for transactions that lock it. Returns what
        needs it; the caller must not commit if anything does."""
        parameters = _parameters(tenant_id, event_type)
        delete = queries.delete_event_type if tenant_id == NOBODY else queries.delete_own_event_type
        cursor = await connection.execute(delete, parameters)
        ((version,),) = await cursor.fetchall()
        await _add_version(connection, parameters, version, TypeChange.DELETED, changed_by)
        cursor = await connection.execute(queries.needs_of_event_type, parameters)
        ((events, timers, quarantined),) = await cursor.fetchall()
        return Needs(events, timers, quarantined)

    async def versions(self, tenant_id: int, name: str) -> list[Version]:
        """All versions, the first one first; empty when there is no such type."""
        rows = await self._database.fetch(queries.event_type_versions, (tenant_id, name), [tenant_id])
        return [
            Version(version, EventType.from_json(name, definition), changed_by, changed_at, TypeChange(kind))
            for version, definition, changed_by, changed_at, kind in rows
        ]


async def held(
    connection: Connection, tenant_ids: Collection[int], names: Collection[str]
) -> Mapping[tuple[int, str], int]:
    """The existing types of these names by owner (0: the operator) and name, with the first version of each.
    Locks them against deletion until the transaction, which must be these tenants', ends."""
    cursor = await connection.execute(queries.hold_event_types, (list(names),))
    rows = await cursor.fetchall()
    cursor = await connection.execute(queries.hold_own_event_types, (list(tenant_ids), list(names)))
    rows += await cursor.fetchall()
    return {(owner, name): since for owner, name, since in rows}


def _parameters(tenant_id: int, event_type: EventType) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id,
        "name": event_type.name,
        "definition": Jsonb(event_type.to_json()),
    }


async def _add_version(
    connection: Connection, parameters: Mapping[str, Any], version: int, change: TypeChange, changed_by: str
) -> None:
    more = {"version": version, "kind": change, "changed_by": changed_by}
    await connection.execute(queries.add_event_type_version, {**parameters, **more})


async def _book(connection: Connection) -> TypeBook:
    cursor = await connection.execute(queries.event_types)
    common = {name: _event_type(name, *more) for name, *more in await cursor.fetchall()}
    cursor = await connection.execute(queries.own_event_types)
    own: dict[int, dict[str, EventType]] = {}
    for tenant_id, name, *more in await cursor.fetchall():
        own.setdefault(tenant_id, {})[name] = _event_type(name, *more)
    return TypeBook(common, own)


def _event_type(name: str, definition: dict[str, Any], archived_at: datetime | None, since: int) -> EventType:
    return replace(EventType.from_json(name, definition), archived_at=archived_at, since=since)
