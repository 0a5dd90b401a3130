"""Stores the rows of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.rows import class_row

from meterline_publisher.ledger.rules.publications import Publication

queries = Queries("meterline_publisher.ledger", "store.sql")


async def of_period(connection: Connection, tenant_id: int, period_start: datetime) -> list[Publication]:
    """All rows of a period, in the order in which they were written."""
    return await _many(connection, queries.of_period, (tenant_id, period_start))


async def page(connection: Connection, tenant_id: int, before: int, limit: int) -> list[Publication]:
    """At most `limit` rows with a `seq` below `before`, newest first."""
    return await _many(connection, queries.page, (tenant_id, before, limit))


async def insert(connection: Connection, row: Publication) -> None:
    """Writes a new row; the table provides `seq` and the initial columns about attempts."""
    await connection.execute(
        queries.insert,
        (
            row.tenant_id,
            row.identifier,
            row.invoice_id,
            row.calculation_id,
            row.meter,
            row.period_start,
            row.period_end,
            row.revision,
            row.value,
            row.event_name,
            row.customer_id,
            row.event_at,
            row.state,
            row.next_attempt_at,
            row.error_code,
            row.trace,
            row.provider,
        ),
    )


async def claim(
    connection: Connection, provider: str, now: datetime, until: datetime, most: int
) -> list[Publication]:
    """Leases at most `most` due rows of this provider until `until`. The returned rows have their previous
    `state`; the stored state is `ambiguous` from now on, since the row may have arrived."""
    parameters = {"provider": provider, "now": now, "until": until, "most": most}
    return await _many(connection, queries.claim, parameters)


async def next_due(connection: Connection, provider: str) -> datetime | None:
    """When the next unfinished row of any tenant is due at this provider; None if there is none."""
    cursor = await connection.execute(queries.next_due, (provider,), binary=True)
    row = await cursor.fetchone()
    return row[0] if row else None


async def mark_sent(connection: Connection, row: Publication, now: datetime) -> None:
    await connection.execute(queries.mark_sent, _key(row) | {"now": now})


async def mark_rejected(connection: Connection, row: Publication, code: str) -> None:
    await connection.execute(queries.mark_rejected, _key(row) | {"code": code})


async def mark_refused(
    connection: Connection, row: Publication, code: str, next_attempt_at: datetime
) -> None:
    """Puts back a row whose last call the provider did not process, in the state before the claim."""
    changes = {"state": row.state, "code": code, "next": next_attempt_at}
    await connection.execute(queries.mark_refused, _key(row) | changes)


async def mark_unclear(
    connection: Connection, row: Publication, code: str, next_attempt_at: datetime, *, new_key: bool = False
) -> None:
    """Puts back a row that may have arrived; `new_key` makes the next attempt use another idempotency key."""
    generation = row.key_generation + 1 if new_key else row.key_generation
    changes = {"code": code, "next": next_attempt_at, "key_generation": generation}
    await connection.execute(queries.mark_unclear, _key(row) | changes)


async def mark_absent(connection: Connection, row: Publication, now: datetime) -> None:
    await connection.execute(queries.mark_absent, _key(row) | {"now": now})


async def sent_total(
    connection: Connection, tenant_id: int, event_name: str, period_start: datetime, provider: str
) -> Decimal:
    """The sum of the values that the provider is known to have under this name, scaled."""
    parameters = (tenant_id, event_name, period_start, provider)
    cursor = await connection.execute(queries.sent_total, parameters, binary=True)
    row = await cursor.fetchone()
    return Decimal(row[0]) if row else Decimal(0)


async def is_complete(connection: Connection, tenant_id: int, invoice_id: UUID) -> bool:
    """Whether the provider has all that the invoice's lines require, and nothing else."""
    cursor = await connection.execute(queries.is_complete, (tenant_id, invoice_id), binary=True)
    row = await cursor.fetchone()
    return bool(row and row[0])


async def waiting_by_state(connection: Connection) -> dict[str, int]:
    """How many rows are pending, ambiguous or rejected, by state."""
    cursor = await connection.execute(queries.waiting_by_state, binary=True)
    return dict(await cursor.fetchall())


def _key(row: Publication) -> dict[str, Any]:
    return {"tenant_id": row.tenant_id, "identifier": row.identifier, "attempts": row.attempts}


async def _many(
    connection: Connection, query: Any, parameters: Sequence[Any] | dict[str, Any]
) -> list[Publication]:
    async with connection.cursor(binary=True, row_factory=class_row(Publication)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()
