"""What is used and not billed, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from meterline.calendar import Period
from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.rows import class_row

from meterline_publisher.gaps.rules import NEED_USAGE, Gap, GapReason, Place, StoredGap

queries = Queries("meterline_publisher.gaps", "store.sql")

WindowKey = tuple[int, datetime, str]
"""Tenant, period start, meter."""


async def replace(
    connection: Connection,
    tenant_id: int,
    period: Period,
    found: Sequence[Gap],
    looked_for: Collection[GapReason],
    now: datetime,
) -> list[Gap]:
    """Keeps what was found of a period, and drops what was there for the reasons that were looked for and is
    not found any more. Answers what is new."""
    parameters = {
        "tenant_id": tenant_id,
        "period_start": period.start,
        "period_end": period.end,
        "now": now,
        "looked_for": [reason.value for reason in looked_for],
        "need_usage": [reason.value for reason in NEED_USAGE],
        "meters": [gap.meter for gap in found],
        "reasons": [gap.reason.value for gap in found],
        "details": [gap.detail for gap in found],
        "quantities": [gap.quantity for gap in found],
    }
    await connection.execute(queries.drop_resolved, parameters)
    if not found:
        return []
    cursor = await connection.execute(queries.put, parameters, binary=True)
    new = {(meter, reason) for meter, reason, is_new in await cursor.fetchall() if is_new}
    return [gap for gap in found if (gap.meter, gap.reason.value) in new]


async def note_late(
    connection: Connection,
    windows: Iterable[WindowKey],
    closed_before: datetime,
    now: datetime,
    billed: Collection[str],
) -> None:
    """Keeps which of these windows hold usage that closing does not bill any more, and how much.

    closed_before: periods that ended before then are not closed by themselves any more
    billed: what tenants may have chosen as their provider that is configured; usage of others is held for
        theirs, and not late, unless its invoice is final
    """
    keys = list(windows)
    if keys:
        tenants, starts, meters = (list(column) for column in zip(*keys, strict=True))
        await connection.execute(
            queries.note_late,
            {
                "tenants": tenants,
                "starts": starts,
                "meters": meters,
                "closed_before": closed_before,
                "now": now,
                "billed": list(billed),
            },
        )


async def page(connection: Connection, tenant_id: int | None, after: Place, limit: int) -> list[StoredGap]:
    """At most `limit` gaps of a tenant, or of all when it is None, beyond a place."""
    parameters = {
        "tenant_id": tenant_id,
        "after_tenant": after[0],
        "after_start": after[1],
        "after_rest": after[2],
        "limit": limit,
    }
    async with connection.cursor(binary=True, row_factory=class_row(StoredGap)) as cursor:
        await cursor.execute(queries.page, parameters)
        return await cursor.fetchall()


async def reason_of(
    connection: Connection, tenant_id: int, period_start: datetime, meter: str
) -> GapReason | None:
    """Why a meter has no line in a period, as far as it is known."""
    parameters = {"tenant_id": tenant_id, "period_start": period_start, "meter": meter}
    cursor = await connection.execute(queries.reason_of, parameters, binary=True)
    row = await cursor.fetchone()
    return GapReason(row[0]) if row else None


async def held(
    connection: Connection,
    ended_by: datetime,
    billed: Collection[str],
    after: tuple[int, datetime],
    limit: int,
) -> list[tuple[int, Period]]:
    """At most `limit` periods that ended by then and were held for want of a provider, beyond a tenant and a
    period's start; of tenants that chose one of `billed`, whose provider there is now."""
    parameters = {
        "reason": GapReason.NO_BILLING_PROVIDER.value,
        "ended_by": ended_by,
        "billed": list(billed),
        "after_tenant": after[0],
        "after_start": after[1],
        "limit": limit,
    }
    cursor = await connection.execute(queries.held, parameters, binary=True)
    return [(tenant_id, Period(start, end)) for tenant_id, start, end in await cursor.fetchall()]


async def count_by_reason(connection: Connection) -> dict[str, int]:
    cursor = await connection.execute(queries.count_by_reason, binary=True)
    return dict(await cursor.fetchall())
