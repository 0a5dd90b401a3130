"""Stores requests to rebuild months, and the batches that retracted events from them."""

from __future__ import annotations

import numpy as np
from meterline.db.arrays import int4_array, timestamptz_array, uuid_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.folding.rules.changes import Changes

queries = Queries("meterline_aggregate.folding.store", "rebuild_requests.sql")


async def request(connection: Connection, changes: Changes) -> None:
    """Requests rebuilds of months, and records which batches retracted events from them."""
    months = np.array(changes.rebuilds.months, np.int64).reshape(-1, 3).T
    sources = np.array(changes.rebuilds.sources, np.int64).reshape(-1, 4).T
    ids = np.frombuffer(b"".join(batch.batch_id for batch in changes.batches), "V16")
    await connection.execute(
        queries.add_retractions,
        (
            int4_array(sources[0]),
            int4_array(sources[1]),
            timestamptz_array(sources[2]),
            uuid_array(ids[sources[3]]),
        ),
    )
    await connection.execute(
        queries.request, (int4_array(months[0]), int4_array(months[1]), timestamptz_array(months[2]))
    )
