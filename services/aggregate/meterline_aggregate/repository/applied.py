"""Which messages were applied: known for good, by the batches that they brought."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from meterline.db.arrays import uuid_array
from meterline.db.pool import Connection

from meterline_aggregate.repository.statements import queries


async def register(connection: Connection, keys: Collection[bytes]) -> set[bytes]:
    """Notes messages (`Accepted.key`) as applied in this transaction; returns those that were not before.

    A concurrent transaction with the same message is waited for. Keys are sorted, so that two such
    transactions cannot wait for each other.
    """
    given = uuid_array(np.frombuffer(b"".join(sorted(keys)), "V16"))
    cursor = await connection.execute(queries.register_applied, (given,), binary=True)
    return {key.bytes for (key,) in await cursor.fetchall()}
