"""Stores the horizon, and deletes the raw events behind it."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any, LiteralString

import psycopg
from meterline.clock import to_us
from meterline.db.pool import Database
from meterline.db.queries import Queries
from meterline.db.scope import ALL_TENANTS

queries = Queries("meterline_ingest.capture.store", "horizon.sql")


class OldEvents:
    """Every call is a transaction. Several processes may call at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def kept_since_us(self) -> int | None:
        """The horizon, in microseconds since the Unix epoch; None while everything is kept."""
        rows = await self._database.fetch(queries.kept_since)
        return to_us(rows[0][0]) if rows else None

    async def announce(self, keep: timedelta) -> datetime:
        """Moves the horizon to the beginning of the oldest month that `keep` reaches into, never back."""
        moment: datetime = await self._change(queries.announce, keep)
        return moment

    async def months(self) -> list[date]:
        """The months that wait to be dropped, the oldest first."""
        return [month for (month,) in await self._database.fetch(queries.old_months)]

    async def any_left(self) -> bool:
        """Whether anything behind the horizon is left to delete or look through."""
        return any(more for (more,) in await self._database.fetch(queries.has_more, None, ALL_TENANTS))

    async def drop_month(self, grace: timedelta) -> date | None:
        """Drops the oldest month that may be dropped; None when there is none, or it is in use right now."""
        try:
            month: date | None = await self._change(queries.drop_month, grace)
        except psycopg.errors.LockNotAvailable:
            return None
        return month

    async def sweep(self, grace: timedelta, batches: int) -> int:
        """Deletes single events; returns how many batches were looked through, 0 when none is left or
        the table is in use right now."""
        try:
            looked: int = await self._change(queries.sweep, grace, batches)
        except psycopg.errors.LockNotAvailable:
            return 0
        return looked

    async def _change(self, query: LiteralString, *parameters: object) -> Any:
        async with self._database.connection(ALL_TENANTS) as connection:
            cursor = await connection.execute(query, parameters)
            row = await cursor.fetchone()
            await connection.commit()
        assert row is not None
        return row[0]
