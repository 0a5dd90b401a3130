"""Stores invoices and their lines."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import Any, Final

from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from meterline_publisher.invoices.rules import Invoice, Line

queries = Queries("meterline_publisher.invoices", "store.sql")

# The first key of the advisory lock by tenant, which separates it from other locks by tenant. Replicas of
# two releases exclude each other only while it has the same value in both.
RATING_LOCK: Final = 4711


async def lock_tenant(connection: Connection, tenant_id: int) -> None:
    """Blocks other ratings of this tenant until the transaction ends."""
    await connection.execute(queries.lock_tenant, {"rating_lock": RATING_LOCK, "tenant_id": tenant_id})


async def by_period(connection: Connection, tenant_id: int, period_start: datetime) -> Invoice | None:
    return await _one(connection, queries.by_period, (tenant_id, period_start))


async def by_id(connection: Connection, tenant_id: int, invoice_id: uuid.UUID) -> Invoice | None:
    return await _one(connection, queries.by_id, (tenant_id, invoice_id))


async def by_id_for_update(connection: Connection, tenant_id: int, invoice_id: uuid.UUID) -> Invoice | None:
    """As `by_id`, and locks the invoice until the transaction ends."""
    return await _one(connection, queries.by_id_for_update, (tenant_id, invoice_id))


async def page(connection: Connection, tenant_id: int, before: datetime, limit: int) -> list[Invoice]:
    """At most `limit` invoices of periods that begin before `before`, newest first."""
    return await _many(connection, queries.page, (tenant_id, before, limit))


async def unsettled(
    connection: Connection, ended: tuple[datetime, datetime], after: tuple[datetime, int], limit: int
) -> list[Invoice]:
    """At most `limit` invoices of all tenants that are not final and whose period ended in (since, until] of
    `ended`, ordered by (period_end, tenant_id), after `after`."""
    return await _many(connection, queries.unsettled, (*ended, *after, limit))


async def upsert(connection: Connection, invoice: Invoice) -> None:
    await connection.execute(queries.upsert, asdict(invoice))


async def lines(
    connection: Connection, tenant_id: int, invoice_ids: Iterable[uuid.UUID]
) -> dict[uuid.UUID, list[Line]]:
    """The lines of each invoice, ordered by meter; an empty list for an invoice without lines."""
    found: dict[uuid.UUID, list[Line]] = {invoice_id: [] for invoice_id in invoice_ids}
    async with connection.cursor(binary=True, row_factory=class_row(Line)) as cursor:
        await cursor.execute(queries.lines, (tenant_id, list(found)))
        for line in await cursor.fetchall():
            found[line.invoice_id].append(line)
    return found


async def line(connection: Connection, tenant_id: int, line_id: uuid.UUID) -> Line | None:
    async with connection.cursor(binary=True, row_factory=class_row(Line)) as cursor:
        await cursor.execute(queries.line, (tenant_id, line_id))
        return await cursor.fetchone()


async def upsert_line(connection: Connection, line: Line) -> None:
    """Inserts the line, or updates the line of its meter, which keeps its id."""
    await connection.execute(queries.upsert_line, {**asdict(line), "steps": Jsonb(line.steps)})


async def delete_lines(connection: Connection, invoice: Invoice, meters: Sequence[str]) -> None:
    """Deletes the lines of these meters from an invoice. The caller must ensure that it is not final."""
    if meters:
        await connection.execute(queries.delete_lines, (invoice.tenant_id, invoice.invoice_id, meters))


async def latest_final(connection: Connection, plan: str, since: datetime | date) -> datetime | None:
    """The start of the latest period with a final invoice of this plan, of any tenant, among periods that
    begin at or after the instant `since`, or on or after the day `since` in the tenant's time zone."""
    at_instant = isinstance(since, datetime)
    parameters = {"plan": plan, "since": since if at_instant else None, "day": None if at_instant else since}
    cursor = await connection.execute(queries.latest_final, parameters, binary=True)
    row = await cursor.fetchone()
    return row[0] if row else None


async def _one(connection: Connection, query: Any, parameters: Sequence[Any]) -> Invoice | None:
    found = await _many(connection, query, parameters)
    return found[0] if found else None


async def _many(connection: Connection, query: Any, parameters: Sequence[Any]) -> list[Invoice]:
    async with connection.cursor(binary=True, row_factory=class_row(Invoice)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()
