"""Ingest whose relay reads only messages beyond the greatest id that it has published."""

from __future__ import annotations

import uuid

from meterline.transactions.outbox import queries
from meterline.transactions.relay import Relay
from meterline_ingest.main import main

_CLAIM = queries.claim.replace("published_at IS NULL", "published_at IS NULL AND message_id > %s")
_published = [uuid.UUID(int=0)]


async def _beyond_the_last(self: Relay) -> int:
    async with self._database.connection() as connection:
        cursor = await connection.execute(_CLAIM, (max(_published), self._claim), binary=True)
        rows = await cursor.fetchall()
        stored, failure = await self._publish(rows)
        if stored:
            await connection.execute(queries.mark_published, (stored,))
            await connection.commit()
            _published.append(max(stored))
    if failure is not None:
        raise failure
    return len(rows)


if __name__ == "__main__":
    Relay.publish_pending = _beyond_the_last  # type: ignore[method-assign]
    main()
