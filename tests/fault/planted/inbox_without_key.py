"""Aggregate whose inbox does not know what it has seen: every redelivery counts again."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from meterline import inbox
from meterline.db.pool import Connection
from meterline_aggregate.main import main


async def _all_are_new(connection: Connection, consumer: str, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    return set(ids)


if __name__ == "__main__":
    inbox.register = _all_are_new
    main()
