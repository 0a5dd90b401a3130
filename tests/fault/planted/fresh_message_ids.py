"""Ingest whose relay publishes a message with a new id at each attempt: a lost ack makes it count twice."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from meterline.ids import new_id
from meterline.transactions.relay import Relay
from meterline_ingest.main import main
from psycopg.rows import TupleRow

_publish = Relay._publish


async def _renamed(self: Relay, rows: Sequence[TupleRow]) -> tuple[list[uuid.UUID], BaseException | None]:
    names = {new_id(): row[0] for row in rows}
    renamed = [(name, *row[1:]) for name, row in zip(names, rows, strict=True)]
    stored, failure = await _publish(self, renamed)
    return [names[name] for name in stored], failure


if __name__ == "__main__":
    Relay._publish = _renamed  # type: ignore[method-assign]
    main()
