"""Reads how many events of each tenant were folded."""

from __future__ import annotations

from meterline.db.pool import Connection
from meterline.db.queries import Queries

queries = Queries("meterline_aggregate.reconciliation", "store.sql")


async def of_all(connection: Connection) -> dict[str, int]:
    """Numbers of folded events by tenant name."""
    cursor = await connection.execute(queries.totals, binary=True)
    return dict(await cursor.fetchall())


async def of_tenant(connection: Connection, tenant_id: int) -> int:
    """The number of one tenant's folded events."""
    cursor = await connection.execute(queries.total_of_tenant, (tenant_id,), binary=True)
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
