"""Finds periods that may have to be rated."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from meterline.calendar import Period
from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.rows import class_row

queries = Queries("meterline_publisher.closing", "store.sql")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tenant whose period may have to be rated; the query explains the fields."""

    tenant_id: int
    currency: str
    plan: str
    rated_plan: str | None
    rated_rules: uuid.UUID | None
    is_used: bool
    usage_differs: bool
    delivery_differs: bool
    unknown_meters: Sequence[str]


async def closing_schedules(connection: Connection) -> list[tuple[str, timedelta]]:
    """The distinct (time zone, lead) of all tenants."""
    cursor = await connection.execute(queries.closing_schedules, binary=True)
    return [(zone, lead) for zone, lead in await cursor.fetchall()]


async def to_close(
    connection: Connection, schedule: tuple[str, timedelta], period: Period, after: int, most: int
) -> list[Candidate]:
    """At most `most` tenants with numbers above `after` whose period may have to be rated."""
    parameters = {
        "time_zone": schedule[0],
        "close_lead": schedule[1],
        "period_start": period.start,
        "period_end": period.end,
        "after": after,
        "most": most,
    }
    async with connection.cursor(binary=True, row_factory=class_row(Candidate)) as cursor:
        await cursor.execute(queries.to_close, parameters)
        return await cursor.fetchall()
