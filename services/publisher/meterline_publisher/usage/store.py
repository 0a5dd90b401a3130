"""The replica of month windows."""

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
    """One month window of one tenant, as a fact tells it."""

    tenant_id: int
    period_start: datetime
    period_end: datetime
    usage: MeterUsage

    @property
    def key(self) -> tuple[int, datetime, str]:
        return self.tenant_id, self.period_start, self.usage.meter


async def upsert(connection: Connection, windows: Iterable[UsageWindow]) -> None:
    """Keeps the greatest revision of each window. Sorted by key, so that concurrent transactions take
    their locks in one order; of each window only the newest may be given."""
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
    """What is known of each meter in the period that begins then."""
    async with connection.cursor(binary=True, row_factory=class_row(MeterUsage)) as cursor:
        await cursor.execute(queries.of_period, (tenant_id, period_start))
        return {usage.meter: usage for usage in await cursor.fetchall()}
