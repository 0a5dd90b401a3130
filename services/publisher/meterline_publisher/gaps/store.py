"""Stores billing gaps."""

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
    """Stores the gaps found for a period, and deletes the period's other gaps with reasons in `looked_for`.
    Returns the gaps that are new."""
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
    """Records which of these windows have usage that closing will not bill any more, and how much.

    closed_before: the job does not close periods that ended before this
    billed: names of configured providers, as tenants may choose them; usage of other tenants is held for
        their provider, and is late only if its invoice is final
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
    """At most `limit` gaps after `after`, of one tenant, or of all if `tenant_id` is None."""
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
    """Why a meter has no line in a period, if known."""
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
    """At most `limit` ended periods that were held because no provider was configured, of all tenants that
    chose one of `billed`, after (tenant, period start) `after`. `ended_by`: the latest end of a period."""
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
