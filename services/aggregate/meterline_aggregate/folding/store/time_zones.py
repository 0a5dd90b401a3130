"""Reads the time zones of tenants."""

from __future__ import annotations

from collections.abc import Collection

from meterline.db.pool import Connection
from meterline.db.queries import Queries

queries = Queries("meterline_aggregate.folding.store", "time_zones.sql")


async def find(connection: Connection, tenant_ids: Collection[int]) -> dict[int, str]:
    """The time zone of each tenant that is known here."""
    cursor = await connection.execute(queries.time_zones, (sorted(tenant_ids),), binary=True)
    return dict(await cursor.fetchall())
