"""Finds the events that a filter may match, a bounded number at once, from the position of the search.

It goes batch by batch, since batches are found by their time, and a batch's events by its number.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from meterline.clock import to_datetime
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_ingest.corrections.rules.selection import EventsFilter

queries = Queries("meterline_ingest.corrections.store", "selecting.sql")

Position = Mapping[str, Any]

_BATCHES: Final = 500
_BEFORE_ALL: Final = str(uuid.UUID(int=0))


@dataclass(frozen=True, slots=True)
class _Progress:
    """After `batch`, the last that is done; if `within` comes next, after its event `after`."""

    phase: int = 0
    batch: int = -1
    within: int = -1
    after: str = _BEFORE_ALL

    def to_json(self) -> Position:
        return {"phase": self.phase, "batch": self.batch, "within": self.within, "after": self.after}


START: Final[Position] = _Progress().to_json()


@dataclass(frozen=True, slots=True)
class _Batch:
    phase: int
    number: int
    events: int


@dataclass(frozen=True, slots=True)
class Found:
    """`position` is None at the end of the search."""

    event_ids: Sequence[uuid.UUID]
    position: Position | None


async def search(
    connection: Connection,
    tenant_id: int,
    chosen: EventsFilter,
    asked_at: datetime,
    position: Position,
    limit: int,
) -> Found:
    """Up to `limit` events of batches that were received until `asked_at`. Some may not fit the filter."""
    progress = _Progress(**position)
    common = {
        "tenant_id": tenant_id,
        "source": chosen.source,
        "batch_ids": list(chosen.batch_ids),
        "start": to_datetime(chosen.since_us),
        "end": to_datetime(chosen.until_us),
    }
    batches = await _batches(connection, common, progress, asked_at)
    if not batches:
        return Found([], None)
    taken = _few(batches, limit)
    inside = progress.within == taken[0].number
    parameters = common | {
        "numbers": [batch.number for batch in taken],
        "named": bool(chosen.batch_ids),
        "event_type": chosen.event_type,
        "subject": chosen.subject,
        "after": uuid.UUID(progress.after if inside else _BEFORE_ALL),
        "limit": limit,
    }
    cursor = await connection.execute(queries.events_in_batches, parameters, binary=True)
    found = [event_id for (event_id,) in await cursor.fetchall()]
    if len(taken) == 1 and len(found) == limit:
        within = _Progress(progress.phase, progress.batch, taken[0].number, str(found[-1]))
        return Found(found, within.to_json())
    if len(taken) == len(batches) < _BATCHES:
        return Found(found, None)
    return Found(found, _Progress(taken[-1].phase, taken[-1].number).to_json())


def _few(batches: Sequence[_Batch], limit: int) -> Sequence[_Batch]:
    """The first of `batches`: as many as have at most `limit` events together, but at least one."""
    events = 0
    for count, batch in enumerate(batches):
        events += batch.events
        if count and events > limit:
            return batches[:count]
    return batches


async def _batches(
    connection: Connection, common: Mapping[str, Any], progress: _Progress, asked_at: datetime
) -> list[_Batch]:
    parameters = {**common, "phase": progress.phase, "number": progress.batch, "asked_at": asked_at}
    query = queries.named_batches if common["batch_ids"] else queries.batches_in_time
    cursor = await connection.execute(query, parameters | {"limit": _BATCHES}, binary=True)
    return [_Batch(*row) for row in await cursor.fetchall()]
