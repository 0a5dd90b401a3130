"""Reads which meters counted the batches of retracted rows."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from meterline.clock import to_us
from meterline.db.arrays import int4_array, uuid_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.folding.rules.origins import Counted, Origin

queries = Queries("meterline_aggregate.folding.store", "origins.sql")


async def find(connection: Connection, origins: Collection[Origin], here: Collection[bytes]) -> Counted:
    """Which meters counted rows of `origins`; `here` are the batches that are being folded."""
    wanted = sorted(origin for origin in set(origins) if origin.batch_id and origin.batch_id not in here)
    slices: dict[Origin, set[tuple[int, int]]] = {}
    if wanted:
        parameters = (
            int4_array(np.array([origin.tenant_id for origin in wanted])),
            uuid_array(np.frombuffer(b"".join(origin.batch_id for origin in wanted), "V16")),
        )
        cursor = await connection.execute(queries.slices_of_batches, parameters, binary=True)
        for tenant_id, batch_id, meter_id, start in await cursor.fetchall():
            slices.setdefault(Origin(tenant_id, batch_id.bytes), set()).add((meter_id, to_us(start)))
    cursor = await connection.execute(queries.creation_of_meters, binary=True)
    created = {meter_id: to_us(created_at) for meter_id, created_at in await cursor.fetchall()}
    return Counted(slices, here, created)
