"""The table of meters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from meterline.db.pool import Connection
from meterline.db.queries import Queries
from meterline.db.scope import Scope, to_setting
from meterline.errors import AbortedError
from psycopg.types.json import Jsonb

from meterline_aggregate.kinds.table import find as find_kind
from meterline_aggregate.meters.rules.definitions import Definition, Meter, UnknownMeter

queries = Queries("meterline_aggregate.meters", "store.sql")

# The numbers of the newest meter and of the last deletion; 0 for none.
Latest = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Usage:
    """The reasons against deleting a meter.

    referred: whether another service ever referred to it
    counted: whether it has counted events of any tenant, or will once its kind is known
    """

    meter_id: int
    referred: bool
    counted: bool


async def latest(connection: Connection, tenants: Scope | None = None) -> Latest:
    """Numbers that change whenever a meter is added or deleted. No meter is deleted until the
    transaction ends.

    tenants: sets the tenants whose rows the transaction may access; None: they are set already
    """
    if tenants is None:
        cursor = await connection.execute(queries.latest_meter, binary=True)
    else:
        cursor = await connection.execute(queries.latest_meter_and_scope, (to_setting(tenants),), binary=True)
    row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]


async def everything(connection: Connection) -> list[Meter | UnknownMeter]:
    """All meters by name, including those of kinds unknown here."""
    cursor = await connection.execute(queries.meters, binary=True)
    return [_meter(row) for row in await cursor.fetchall()]


async def find(connection: Connection, name: str) -> Meter | UnknownMeter | None:
    cursor = await connection.execute(queries.meter_by_name, (name,), binary=True)
    row = await cursor.fetchone()
    return _meter(row) if row else None


async def lock(connection: Connection) -> None:
    """Locks the adding of meters until the transaction ends."""
    await connection.execute(queries.lock_meters)


async def hold(connection: Connection) -> None:
    """Waits for all transactions that have read meters, and blocks reading them until this transaction ends.

    Raises AbortedError when the wait takes over 2 seconds; new readers wait as long.
    """
    await connection.execute(queries.limit_waiting)
    try:
        await lock(connection)
        await connection.execute(queries.hold_meters)
    except psycopg.errors.LockNotAvailable as error:
        raise AbortedError("events are being counted; try again", retry_after=1.0) from error


async def refer_to(connection: Connection, name: str) -> None:
    """Records for good that something refers to the meter."""
    await connection.execute(queries.refer_to_meter, (name,))


async def usage(connection: Connection, name: str) -> Usage | None:
    """The reasons against deleting the meter; None when there is no such meter.

    The transaction must have access to all tenants.
    """
    cursor = await connection.execute(queries.deletable_meter, (name,), binary=True)
    row = await cursor.fetchone()
    return Usage(*row) if row else None


async def delete(connection: Connection, meter_id: int, deleted_by: str) -> None:
    """The number of a deleted meter is never used again."""
    await connection.execute(queries.delete_meter, (meter_id, deleted_by))


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


def _meter(row: Sequence[Any]) -> Meter | UnknownMeter:
    meter_id, name, event_type, number, quantity, unique_dimension, group_by, filter_ = row
    kind, pairs = find_kind(number), tuple(sorted(filter_.items()))
    if kind is None:
        return UnknownMeter(
            meter_id, name, event_type, number, quantity, unique_dimension, tuple(group_by), pairs
        )
    definition = Definition(
        name, event_type, kind.aggregation, quantity, unique_dimension, tuple(group_by), pairs
    )
    return Meter(meter_id, definition)
