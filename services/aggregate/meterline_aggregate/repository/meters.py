"""Meters, and the time zones of tenants."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from meterline.db.pool import Connection
from meterline.db.scope import Scope, to_setting
from psycopg.types.json import Jsonb

from meterline_aggregate.domain.meters import Aggregation, Definition, Meter
from meterline_aggregate.repository.statements import queries


async def latest(connection: Connection, tenants: Scope | None = None) -> int:
    """The number of the newest meter, 0 when there is none.

    tenants: whose rows the transaction may touch from now on, where that is not set yet
    """
    if tenants is None:
        cursor = await connection.execute(queries.latest_meter, binary=True)
    else:
        cursor = await connection.execute(queries.latest_meter_and_scope, (to_setting(tenants),), binary=True)
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def everything(connection: Connection) -> list[Meter]:
    """All meters by name."""
    cursor = await connection.execute(queries.meters, binary=True)
    return [_meter(row) for row in await cursor.fetchall()]


async def find(connection: Connection, name: str) -> Meter | None:
    cursor = await connection.execute(queries.meter_by_name, (name,), binary=True)
    row = await cursor.fetchone()
    return _meter(row) if row else None


async def lock(connection: Connection) -> None:
    """Waits until nobody else adds a meter, and keeps others from it until the transaction ends."""
    await connection.execute(queries.lock_meters)


async def insert(connection: Connection, definition: Definition) -> Meter:
    cursor = await connection.execute(
        queries.insert_meter,
        (
            definition.name,
            definition.event_type,
            int(definition.aggregation),
            definition.quantity,
            definition.unique_dimension,
            list(definition.group_by),
            Jsonb(dict(definition.filter)),
        ),
        binary=True,
    )
    row = await cursor.fetchone()
    assert row is not None
    return Meter(row[0], definition)


def _meter(row: Sequence[Any]) -> Meter:
    meter_id, name, event_type, aggregation, quantity, unique_dimension, group_by, filter_ = row
    return Meter(
        meter_id,
        Definition(
            name,
            event_type,
            Aggregation(aggregation),
            quantity,
            unique_dimension,
            tuple(group_by),
            tuple(sorted(filter_.items())),
        ),
    )


async def time_zones(connection: Connection, tenant_ids: Collection[int]) -> dict[int, str]:
    """The time zone of each tenant that is known here."""
    cursor = await connection.execute(queries.time_zones, (sorted(tenant_ids),), binary=True)
    return dict(await cursor.fetchall())
