"""The envelope of a message, and the statement that stores it in the caller's transaction."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from meterline.db.arrays import bytea_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries
from meterline.ids import new_id

queries = Queries("meterline.outbox")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the relay needs to know; it never looks into the payload."""

    subject: str
    payload: bytes
    headers: dict[str, str] = field(default_factory=dict)
    message_id: uuid.UUID = field(default_factory=new_id)


async def insert(connection: Connection, envelopes: Sequence[Envelope]) -> None:
    """Stores `envelopes`; they are published if and only if the transaction commits."""
    await connection.execute(
        queries.insert,
        (
            [envelope.message_id for envelope in envelopes],
            [envelope.subject for envelope in envelopes],
            [json.dumps(envelope.headers) for envelope in envelopes],
            bytea_array([envelope.payload for envelope in envelopes]),
        ),
    )
