"""Which messages were applied: known for good, by the batches that they brought."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from meterline.db.arrays import Binary, uuid_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

queries = Queries("meterline_aggregate.folding.store", "applied.sql")


async def register(connection: Connection, keys: Collection[bytes]) -> set[bytes]:
    """Notes messages (`Accepted.key`) as applied in this transaction; returns those that were not before.

    A concurrent transaction with the same message is waited for. Keys are sorted, so that two such
    transactions cannot wait for each other.
    """
    cursor = await connection.execute(queries.register_applied, (_array(keys),), binary=True)
    return {key.bytes for (key,) in await cursor.fetchall()}


async def register_in_parts(connection: Connection, keys: Collection[bytes]) -> set[bytes]:
    """Notes that messages are applied by their batches; answers those of which this is so. Not of those that
    were applied as a whole before. Concurrent transactions as in `register`."""
    await connection.execute(queries.register_in_parts, (_array(keys),))
    return await in_parts(connection, keys)


async def in_parts(connection: Connection, keys: Collection[bytes]) -> set[bytes]:
    """The messages that are applied by their batches."""
    cursor = await connection.execute(queries.applied_in_parts, (_array(keys),), binary=True)
    return {key.bytes for (key,) in await cursor.fetchall()}


def _array(keys: Collection[bytes]) -> Binary:
    return uuid_array(np.frombuffer(b"".join(sorted(keys)), "V16"))
