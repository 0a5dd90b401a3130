"""Sealed values of corrections, for the resealer, which reseals them under a newer key."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_ingest.corrections.store.current import CORRECTIONS, SEALED, sealed_row
from meterline_ingest.keys.rules import Resealed

queries = Queries("meterline_ingest.corrections.store", "sealed.sql")

_ID_BYTES: Final = 16


class SealedCorrections:
    """The sensitive properties of amended events."""

    table: Final = CORRECTIONS
    column: Final = SEALED

    async def earlier(
        self, connection: Connection, tenant_id: int, before: bytes, after: bytes, limit: int
    ) -> Sequence[tuple[bytes, bytes]]:
        event_id, revision = _key(after) if after else (uuid.UUID(int=0), 0)
        cursor = await connection.execute(
            queries.sealed_corrections,
            {
                "tenant_id": tenant_id,
                "before": before,
                "event_id": event_id,
                "revision": revision,
                "limit": limit,
            },
            binary=True,
        )
        return [(sealed_row(row[0], row[1]), row[2]) for row in await cursor.fetchall()]

    async def replace(self, connection: Connection, tenant_id: int, values: Sequence[Resealed]) -> int:
        replaced = 0
        for value in values:
            event_id, revision = _key(value.row)
            cursor = await connection.execute(
                queries.reseal_correction,
                {
                    "tenant_id": tenant_id,
                    "event_id": event_id,
                    "revision": revision,
                    "before": value.before,
                    "after": value.after,
                },
            )
            replaced += cursor.rowcount
        return replaced


def _key(row: bytes) -> tuple[uuid.UUID, int]:
    """The arguments that `sealed_row` was called with."""
    return uuid.UUID(bytes=row[:_ID_BYTES]), int.from_bytes(row[_ID_BYTES:], "big")
