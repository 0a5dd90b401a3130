"""The registry of event types."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from meterline.db.pool import Connection, Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS
from psycopg.types.json import Jsonb

from meterline_ingest.domain.event_types import EventType
from meterline_ingest.domain.type_book import NOBODY, TypeBook

queries = Queries("meterline_ingest.repository", "event_types.sql")


@dataclass(frozen=True, slots=True)
class Version:
    """What a type was from `changed_at` on."""

    version: int
    event_type: EventType
    changed_by: str
    changed_at: datetime


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
        """All types, held against changes until the transaction, which is everybody's, ends."""
        await connection.execute(queries.lock_event_types)
        return await _book(connection)

    async def put(
        self, connection: Connection, tenant_id: int, event_type: EventType, changed_by: str
    ) -> None:
        """Adds a version; `tenant_id` is 0 for the operator's types."""
        parameters = {
            "tenant_id": tenant_id,
            "name": event_type.name,
            "definition": Jsonb(event_type.to_json()),
            "changed_by": changed_by,
        }
        put = queries.put_event_type if tenant_id == NOBODY else queries.put_own_event_type
        cursor = await connection.execute(put, parameters)
        ((version,),) = await cursor.fetchall()
        await connection.execute(queries.add_event_type_version, {**parameters, "version": version})

    async def versions(self, tenant_id: int, name: str) -> list[Version]:
        """From the first on; empty when there is no such type."""
        rows = await self._database.fetch(queries.event_type_versions, (tenant_id, name), [tenant_id])
        return [
            Version(version, EventType.from_json(name, definition), changed_by, changed_at)
            for version, definition, changed_by, changed_at in rows
        ]


async def _book(connection: Connection) -> TypeBook:
    cursor = await connection.execute(queries.event_types)
    common = {name: EventType.from_json(name, definition) for name, definition in await cursor.fetchall()}
    cursor = await connection.execute(queries.own_event_types)
    own: dict[int, dict[str, EventType]] = {}
    for tenant_id, name, definition in await cursor.fetchall():
        own.setdefault(tenant_id, {})[name] = EventType.from_json(name, definition)
    return TypeBook(common, own)
