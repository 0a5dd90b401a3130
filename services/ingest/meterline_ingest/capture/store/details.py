"""Details of events outside their rows, and the stored bodies that repeated events are compared with."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from meterline.clock import to_datetime, to_us
from meterline.db import arrays
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_ingest.event.columns import UUID_DTYPE, Ids, Int64s
from meterline_ingest.keys.rules import Resealed

queries = Queries("meterline_ingest.capture.store", "details.sql")

TABLE: Final = "event_details"
SEALED: Final = "sealed"
# Rows of one statement: building its parameters and rows blocks the event loop.
PORTION: Final = 1_000

Key = tuple[bytes, int]
"""Event id and tenant."""


@dataclass(slots=True)
class Detail:
    """`sent_us` only where it cannot be computed from the batch's skew."""

    event_id: bytes
    tenant_id: int
    body_digest: bytes
    sent_us: int | None = None
    properties: Mapping[str, str] | None = None
    sealed: bytes | None = None
    sealed_names: Sequence[str] = ()
    flags: Sequence[str] = ()
    sources: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StoredBody:
    """What is stored under an id. `body_digest` is None where its row holds all that was sent."""

    batch_number: int
    occurred_at_us: int
    skew_us: int | None
    subject_id: int
    series_id: int
    units: tuple[int | None, ...]
    body_digest: bytes | None
    sent_us: int | None
    event_type: str
    dimensions: dict[str, str]
    subject: str

    def sent_at(self, skews_by_batch: Mapping[int, int]) -> int:
        """The time as it was sent. The skew of a batch that is being stored is not in the database yet."""
        if self.sent_us is not None:
            return self.sent_us
        skew = skews_by_batch.get(self.batch_number, 0) if self.skew_us is None else self.skew_us
        return self.occurred_at_us - skew


class SealedDetails:
    """The sealed properties of events, in the form that the resealer uses."""

    table = TABLE
    column = SEALED

    async def earlier(
        self, connection: Connection, tenant_id: int, before: bytes, after: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        row = uuid.UUID(bytes=after) if after else uuid.UUID(int=0)
        cursor = await connection.execute(
            queries.sealed_earlier, (tenant_id, before, row, limit), binary=True
        )
        return [(event_id.bytes, sealed) for event_id, sealed in await cursor.fetchall()]

    async def replace(self, connection: Connection, tenant_id: int, values: Sequence[Resealed]) -> int:
        parameters = (
            arrays.uuid_array(_ids([value.row for value in values])),
            arrays.bytea_array([value.before for value in values]),
            arrays.bytea_array([value.after for value in values]),
            tenant_id,
        )
        return (await connection.execute(queries.replace_sealed, parameters)).rowcount


async def insert(connection: Connection, details: Sequence[Detail]) -> None:
    """Adds details of events that were inserted in the same transaction."""
    ordered = sorted(details, key=lambda each: (each.event_id, each.tenant_id))
    for start in range(0, len(ordered), PORTION):
        await _insert(connection, ordered[start : start + PORTION])


async def _insert(connection: Connection, ordered: Sequence[Detail]) -> None:
    parameters = (
        arrays.uuid_array(_ids([each.event_id for each in ordered])),
        arrays.int4_array(np.array([each.tenant_id for each in ordered])),
        arrays.uuid_array(_ids([each.body_digest for each in ordered])),
        [None if each.sent_us is None else to_datetime(each.sent_us) for each in ordered],
        arrays.text_array([json.dumps(each.properties) if each.properties else None for each in ordered]),
        arrays.bytea_array([each.sealed for each in ordered]),
        arrays.text_array([" ".join(each.sealed_names) or None for each in ordered]),
        arrays.text_array([" ".join(each.flags) or None for each in ordered]),
        arrays.text_array(["\x1f".join(each.sources) or None for each in ordered]),
    )
    await connection.execute(queries.insert_details, parameters)


async def stored_bodies(connection: Connection, ids: Ids, tenant_ids: Int64s) -> dict[Key, StoredBody]:
    """The stored bodies under these ids, PORTION at most, as this transaction sees them."""
    parameters = arrays.uuid_array(ids), arrays.int4_array(np.unique(tenant_ids))
    cursor = await connection.execute(queries.stored_bodies, parameters, binary=True)
    return {
        (row[0].bytes, row[1]): StoredBody(
            row[2],
            to_us(row[3]),
            row[4],
            row[5],
            row[6],
            tuple(row[7:11]),
            None if row[11] is None else row[11].bytes,
            None if row[12] is None else to_us(row[12]),
            row[13],
            row[14],
            row[15],
        )
        for row in await cursor.fetchall()
    }


def _ids(raw: Sequence[bytes]) -> Ids:
    return np.frombuffer(b"".join(raw), UUID_DTYPE)
