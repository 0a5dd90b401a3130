"""The envelope of a message, and the statements that store it in the caller's transaction."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from meterline.db.arrays import bytea_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries
from meterline.ids import new_id

queries = Queries("meterline.transactions", "outbox.sql")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the relay needs to know; it never looks into the payload."""

    subject: str
    payload: bytes
    headers: dict[str, str] = field(default_factory=dict)
    message_id: uuid.UUID = field(default_factory=new_id)


async def insert(connection: Connection, envelopes: Sequence[Envelope]) -> None:
    """Stores `envelopes`; they are published if and only if the transaction commits."""
    await connection.execute(queries.insert, _parameters(envelopes))


async def publish_again(connection: Connection, ids: Collection[uuid.UUID]) -> tuple[set[uuid.UUID], int]:
    """Has those of `ids` that are here published again; answers which are here, and how many had been
    published."""
    cursor = await connection.execute(queries.there, (list(ids),), binary=True)
    there = {message_id for (message_id,) in await cursor.fetchall()}
    cursor = await connection.execute(queries.publish_again, (sorted(there),))
    return there, cursor.rowcount


async def restore(connection: Connection, envelopes: Sequence[Envelope]) -> None:
    """Stores messages that were here once, to be published again; those that are here stay as they are."""
    await connection.execute(queries.restore, _parameters(envelopes))


def _parameters(envelopes: Sequence[Envelope]) -> tuple[object, ...]:
    return (
        [envelope.message_id for envelope in envelopes],
        [envelope.subject for envelope in envelopes],
        [json.dumps(envelope.headers) for envelope in envelopes],
        bytea_array([envelope.payload for envelope in envelopes]),
    )
