"""Records which messages were applied, permanently, by the ids of their batches."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from meterline.db.arrays import Binary, uuid_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

queries = Queries("meterline_aggregate.folding.store", "applied.sql")


async def register(connection: Connection, keys: Collection[bytes]) -> set[bytes]:
    """Records messages (`Accepted.key`) as applied in this transaction; returns those that were new.

    Waits for a concurrent transaction with the same message. Keys are sorted, so that two such transactions
    cannot deadlock.
    """
    cursor = await connection.execute(queries.register_applied, (_array(keys),), binary=True)
    return {key.bytes for (key,) in await cursor.fetchall()}


async def register_in_parts(connection: Connection, keys: Collection[bytes]) -> set[bytes]:
    """Records messages as applied by batches, unless they were applied whole; returns those recorded so.

    Waits for concurrent transactions as `register` does.
    """
    await connection.execute(queries.register_in_parts, (_array(keys),))
    return await in_parts(connection, keys)


async def in_parts(connection: Connection, keys: Collection[bytes]) -> set[bytes]:
    """Those of the messages that are applied by batches."""
    cursor = await connection.execute(queries.applied_in_parts, (_array(keys),), binary=True)
    return {key.bytes for (key,) in await cursor.fetchall()}


def _array(keys: Collection[bytes]) -> Binary:
    return uuid_array(np.frombuffer(b"".join(sorted(keys)), "V16"))
