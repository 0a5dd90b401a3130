"""Stores the replica of month windows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.rows import class_row

from meterline_publisher.usage.rules import MeterUsage

queries = Queries("meterline_publisher.usage", "store.sql")


@dataclass(frozen=True, slots=True)
class UsageWindow:
    """One month window of one tenant, from a message or an answer."""

    tenant_id: int
    period_start: datetime
    period_end: datetime
    usage: MeterUsage

    @property
    def key(self) -> tuple[int, datetime, str]:
        return self.tenant_id, self.period_start, self.usage.meter


async def upsert(connection: Connection, windows: Iterable[UsageWindow]) -> None:
    """Stores windows unless the stored revision is greater. Sorts by key, so that concurrent transactions
    lock in one order; each window must occur once."""
    ordered = sorted(windows, key=lambda window: window.key)
    await connection.execute(
        queries.upsert,
        (
            [window.tenant_id for window in ordered],
            [window.period_start for window in ordered],
            [window.usage.meter for window in ordered],
            [window.period_end for window in ordered],
            [window.usage.value for window in ordered],
            [window.usage.event_count for window in ordered],
            [window.usage.revision for window in ordered],
            [window.usage.aggregation for window in ordered],
            [window.usage.trace for window in ordered],
        ),
    )


async def of_period(connection: Connection, tenant_id: int, period_start: datetime) -> dict[str, MeterUsage]:
    """The usage of each meter in the period that begins at `period_start`."""
    async with connection.cursor(binary=True, row_factory=class_row(MeterUsage)) as cursor:
        await cursor.execute(queries.of_period, (tenant_id, period_start))
        return {usage.meter: usage for usage in await cursor.fetchall()}
