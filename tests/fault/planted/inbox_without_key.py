"""Aggregate that does not recognise handled messages and batches: every redelivery counts again."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable

from meterline.db.pool import Connection
from meterline.transactions import inbox
from meterline_aggregate.folding.store import applied
from meterline_aggregate.main import main


async def _all_ids_are_new(connection: Connection, consumer: str, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    return set(ids)


async def _all_keys_are_new(connection: Connection, keys: Collection[bytes]) -> set[bytes]:
    return set(keys)


if __name__ == "__main__":
    inbox.register = _all_ids_are_new
    applied.register = _all_keys_are_new
    main()
