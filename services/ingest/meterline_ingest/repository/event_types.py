"""The registry of event types."""

from __future__ import annotations

from meterline.db.pool import Connection, Database
from psycopg.types.json import Jsonb

from meterline_ingest.domain.event_types import EventType
from meterline_ingest.repository import queries


class EventTypeRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[EventType]:
        rows = await self._database.fetch(queries.event_types)
        return [EventType.from_json(name, definition) for name, definition in rows]

    async def locked(self, connection: Connection) -> dict[str, EventType]:
        """All types by name, held against changes until the transaction ends."""
        await connection.execute(queries.lock_event_types)
        cursor = await connection.execute(queries.event_types)
        return {name: EventType.from_json(name, definition) for name, definition in await cursor.fetchall()}

    async def put(self, connection: Connection, event_type: EventType) -> None:
        await connection.execute(queries.put_event_type, (event_type.name, Jsonb(event_type.to_json())))
