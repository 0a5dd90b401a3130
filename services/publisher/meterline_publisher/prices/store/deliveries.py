"""Stores delivery settings of the catalogue's meters. Versions are immutable."""

from __future__ import annotations

from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_publisher.prices.rules.deliveries import Delivery

queries = Queries("meterline_publisher.prices.store", "deliveries.sql")


async def of_plan(connection: Connection, plan: str) -> list[Delivery]:
    """All versions of all meters of a plan, by meter and version."""
    cursor = await connection.execute(queries.of_plan, (plan,), binary=True)
    return [Delivery(*row) for row in await cursor.fetchall()]


async def insert(
    connection: Connection, plan: str, meter: str, version: int, settings: tuple[str, int], put_by: str
) -> Delivery:
    """Returns the new version. `settings` are event name and scale."""
    parameters = (plan, meter, version, *settings, put_by)
    cursor = await connection.execute(queries.insert, parameters, binary=True)
    (row,) = await cursor.fetchall()
    return Delivery(*row)
