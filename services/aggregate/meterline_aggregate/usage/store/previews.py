"""Reads the current state that a preview compares with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from meterline.clock import to_us
from meterline.db.arrays import int2_array, int4_array, timestamptz_array, uuid_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.folding.rules.changes import Int64s, MemberChanges
from meterline_aggregate.kinds.kind import State
from meterline_aggregate.usage.rules.tally import WindowKey, rows_of
from meterline_aggregate.windows.calendar import Grain

queries = Queries("meterline_aggregate.usage.store", "previews.sql")


async def totals_at(
    connection: Connection, tenant_id: int, keys: Iterable[WindowKey]
) -> dict[WindowKey, State]:
    """The states of those windows that exist."""
    columns = np.array(list(keys), np.int64).reshape(-1, 3).T
    cursor = await connection.execute(
        queries.totals_at, {"tenant_id": tenant_id} | _keys(*columns), binary=True
    )
    return {
        WindowKey(Grain(grain), meter_id, to_us(start)): State(events, number)
        for grain, meter_id, start, events, number in await cursor.fetchall()
    }


async def count_new_members(
    connection: Connection, tenant_id: int, members: MemberChanges
) -> dict[WindowKey, int]:
    """Numbers of new members, for each day and month of totals that has any."""
    which = np.array(list(rows_of(members)), np.int64)
    keys = _keys(members.grain[which], members.meter_id[which], members.start_us[which])
    parameters = {"tenant_id": tenant_id, "members": uuid_array(members.member[which])} | keys
    cursor = await connection.execute(queries.count_new_members, parameters, binary=True)
    return {
        WindowKey(Grain(grain), meter_id, to_us(start)): count
        for grain, meter_id, start, count in await cursor.fetchall()
    }


def _keys(grains: Int64s, meters: Int64s, starts_us: Int64s) -> dict[str, Any]:
    return {
        "grains": int2_array(grains),
        "meters": int4_array(meters),
        "starts": timestamptz_array(starts_us),
    }
