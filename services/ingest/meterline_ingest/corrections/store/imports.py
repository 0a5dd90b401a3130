"""Imports: who requested them and why. Their batches hold what they imported."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final

from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_ingest.corrections.rules.history import Import, ImportKey

queries = Queries("meterline_ingest.corrections.store", "imports.sql")

_NEWEST: Final[ImportKey] = (datetime.max.replace(tzinfo=UTC), uuid.UUID(int=0))


async def add(
    connection: Connection, tenant_id: int, import_id: uuid.UUID, source: str, requested_by: str, reason: str
) -> bool:
    """Whether it is new."""
    cursor = await connection.execute(
        queries.add_import,
        {
            "tenant_id": tenant_id,
            "import_id": import_id,
            "source": source,
            "requested_by": requested_by,
            "reason": reason,
        },
    )
    return cursor.rowcount == 1


async def find(connection: Connection, tenant_id: int, import_id: uuid.UUID) -> tuple[str, str, str]:
    """(source, requested_by, reason) of an import that was begun."""
    cursor = await connection.execute(queries.find_import, (tenant_id, import_id))
    ((source, requested_by, reason),) = await cursor.fetchall()
    return source, requested_by, reason


async def page(connection: Connection, tenant_id: int, before: ImportKey | None, limit: int) -> list[Import]:
    """The newest first, after `before` in this order."""
    started_at, import_id = before or _NEWEST
    parameters = {"tenant_id": tenant_id, "before": started_at, "before_id": import_id, "limit": limit}
    cursor = await connection.execute(queries.list_imports, parameters, binary=True)
    return [Import(*row) for row in await cursor.fetchall()]
