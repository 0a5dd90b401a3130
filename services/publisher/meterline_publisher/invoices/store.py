"""Invoices and their lines."""

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
    """Until the transaction ends nobody else rates this tenant."""
    await connection.execute(queries.lock_tenant, {"rating_lock": RATING_LOCK, "tenant_id": tenant_id})


async def by_period(connection: Connection, tenant_id: int, period_start: datetime) -> Invoice | None:
    return await _one(connection, queries.by_period, (tenant_id, period_start))


async def by_id(connection: Connection, tenant_id: int, invoice_id: uuid.UUID) -> Invoice | None:
    return await _one(connection, queries.by_id, (tenant_id, invoice_id))


async def by_id_for_update(connection: Connection, tenant_id: int, invoice_id: uuid.UUID) -> Invoice | None:
    """As `by_id`; others that want to change the invoice wait until this transaction ends."""
    return await _one(connection, queries.by_id_for_update, (tenant_id, invoice_id))


async def page(connection: Connection, tenant_id: int, before: datetime, limit: int) -> list[Invoice]:
    """At most `limit` invoices of periods that begin before then, newest first."""
    return await _many(connection, queries.page, (tenant_id, before, limit))


async def unsettled(
    connection: Connection, ended: tuple[datetime, datetime], after: tuple[datetime, int], limit: int
) -> list[Invoice]:
    """Invoices of all tenants that are neither final nor of a period outside (since, until], in the order
    of (period_end, tenant_id) from `after` on."""
    return await _many(connection, queries.unsettled, (*ended, *after, limit))


async def upsert(connection: Connection, invoice: Invoice) -> None:
    await connection.execute(queries.upsert, asdict(invoice))


async def lines(
    connection: Connection, tenant_id: int, invoice_ids: Iterable[uuid.UUID]
) -> dict[uuid.UUID, list[Line]]:
    """The lines of some invoices, each in the order of meters; empty for one without lines."""
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
    """A line that is there keeps its id."""
    await connection.execute(queries.upsert_line, {**asdict(line), "steps": Jsonb(line.steps)})


async def delete_lines(connection: Connection, invoice: Invoice, meters: Sequence[str]) -> None:
    """Takes the lines of these meters off an invoice that is not final."""
    if meters:
        await connection.execute(queries.delete_lines, (invoice.tenant_id, invoice.invoice_id, meters))


async def latest_final(connection: Connection, plan: str, since: datetime | date) -> datetime | None:
    """The start of the last period that has a final invoice of this plan, whose ever, out of those that begin
    at an instant or later, or on a day or later in their tenant's time zone."""
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
