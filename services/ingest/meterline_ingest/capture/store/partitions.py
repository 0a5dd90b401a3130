"""Which partition of `events` an id belongs to.

COPY writes to partitions by name: it refuses a table with row-level security, and saves the routing of rows
this way. A partition's own constraint refuses a wrong guess, so that no row is stored wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from meterline.db.pool import Database
from meterline.db.queries import Queries
from meterline.telemetry.logging import logger

from meterline_ingest.event.columns import Ids, Int64s

queries = Queries("meterline_ingest.capture.store", "partitions.sql")

log = logger()

REST = "events_rest"


class Partitions:
    """One for each process. Until `refresh` every id belongs to the rest; the database refuses wrong ones."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._starts = np.zeros(0, np.int64)
        self._ends = np.zeros(0, np.int64)
        self._names: list[str] = []

    async def refresh(self) -> None:
        """Reads which partitions exist."""
        months = [month for (month,) in await self._database.fetch(queries.event_months)]
        self._names = [f"events_{month}" for month in months]
        self._starts = np.array([_start_ms(int(month)) for month in months], np.int64)
        self._ends = np.array([_start_ms(_next(int(month))) for month in months], np.int64)

    async def make(self) -> None:
        """Makes the partitions of the coming months, and reads which exist."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(queries.make_event_months)
            for (name,) in await cursor.fetchall():
                log.info("events.partition_made", partition=name)
            await connection.commit()
        await self.refresh()

    def split(self, ids: Ids) -> Iterator[tuple[str, Int64s | None]]:
        """The partitions that `ids` belong to, each with its rows; None means all rows."""
        moments = (ids.view(">u8").reshape(-1, 2)[:, 0] >> np.uint64(16)).astype(np.int64)
        if not len(moments):
            return
        # Events that arrive together were mostly made in one month.
        first, last = self._find(np.array([moments.min(), moments.max()]))
        if first == last and first >= 0:
            yield self._names[first], None
            return
        places = self._find(moments)
        for place in np.unique(places).tolist():
            yield (self._names[place] if place >= 0 else REST), np.flatnonzero(places == place)

    def _find(self, moments: Int64s) -> Int64s:
        """Positions in `names`, -1 for the rest."""
        if not self._names:
            return np.full(len(moments), -1)
        places = np.searchsorted(self._starts, moments, side="right") - 1
        inside = (places >= 0) & (moments < self._ends[places])
        return np.where(inside, places, -1)


def _start_ms(month: int) -> int:
    """Milliseconds since the Unix epoch; `month` as 202611."""
    return int(datetime(month // 100, month % 100, 1, tzinfo=UTC).timestamp()) * 1000


def _next(month: int) -> int:
    return month + 1 if month % 100 < 12 else month + 89
