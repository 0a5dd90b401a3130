"""Month windows waiting to be published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from meterline.clock import to_us
from meterline.db.arrays import int4_array, text_array, timestamptz_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.kinds.kind import State
from meterline_aggregate.kinds.table import KINDS, numbers

queries = Queries("meterline_aggregate.announcing", "store.sql")


@dataclass(frozen=True, slots=True)
class Month:
    """The current month window of the total. `traceparent` is that of the last change."""

    tenant_id: int
    meter: str
    aggregation: int
    time_zone: str
    start_us: int
    value: Decimal
    event_count: int
    revision: int
    traceparent: str


async def claim(connection: Connection, limit: int, *, busy: bool) -> list[Month]:
    """Claims up to `limit` changed months and reads their current values.

    busy: wait for locked rows instead of skipping them. Raises meterline.errors.UnavailableError, at the end
    of the transaction, when the wait takes over 2 seconds.
    """
    if busy:
        await connection.execute(queries.limit_waiting)
    statement = queries.claim_busy_months if busy else queries.claim_months
    cursor = await connection.execute(statement, {"known": numbers(), "limit": limit}, binary=True)
    claimed = await cursor.fetchall()
    return await _read(connection, claimed) if claimed else []


async def _read(connection: Connection, claimed: Sequence[Sequence[Any]]) -> list[Month]:
    tenants, meters, starts, traces = zip(*claimed, strict=True)
    parameters = (
        int4_array(np.array(tenants)),
        int4_array(np.array(meters)),
        timestamptz_array(np.array([to_us(start) for start in starts], np.int64)),
        text_array(traces),
    )
    cursor = await connection.execute(queries.read_months, parameters, binary=True)
    return [
        Month(
            tenant_id,
            meter,
            aggregation,
            zone,
            to_us(start),
            KINDS[aggregation].shown(State(events, number)),
            events,
            revision,
            trace,
        )
        for (
            tenant_id,
            meter,
            aggregation,
            zone,
            start,
            number,
            events,
            revision,
            trace,
        ) in await cursor.fetchall()
    ]
