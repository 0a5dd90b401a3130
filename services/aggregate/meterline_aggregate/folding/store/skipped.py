"""Stores contributions that were skipped, since the kind of their meter is unknown here."""

from __future__ import annotations

import numpy as np
from meterline.db.arrays import bytea_array, int4_array, int8_array, timestamptz_array, uuid_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.folding.rules.changes import Changes

queries = Queries("meterline_aggregate.folding.store", "skipped.sql")


async def add(connection: Connection, changes: Changes) -> None:
    """Stores the skipped contributions until a replica knows the kind."""
    given = changes.skipped.contributions
    ids = np.frombuffer(b"".join(batch.batch_id for batch in changes.batches), "V16")
    parameters = (
        int4_array(given.tenant_id),
        int4_array(given.meter_id),
        timestamptz_array(given.start_us),
        uuid_array(ids[given.batch]),
        int8_array(given.event_count),
        bytea_array(changes.skipped.taken),
    )
    await connection.execute(queries.skip, parameters)
