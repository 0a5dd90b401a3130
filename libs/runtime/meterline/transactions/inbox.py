"""What was handled is noted in the transaction that handled it: every effect happens once.

This is a table and no cache: what it forgot would be handled twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from meterline.db.pool import Connection
from meterline.db.queries import Queries

queries = Queries("meterline.transactions", "inbox.sql")


async def register(connection: Connection, consumer: str, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Notes `ids` as handled by `consumer`; returns those that were not noted before.

    A concurrent transaction with the same id waits here until this one ends. Ids are sorted, so that two
    such transactions cannot wait for each other.
    """
    cursor = await connection.execute(queries.register, (sorted(ids), consumer), binary=True)
    return {row[0] for row in await cursor.fetchall()}
