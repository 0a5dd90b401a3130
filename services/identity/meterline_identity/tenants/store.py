"""The tenants. Every function works in the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from meterline.clock import to_datetime, to_us
from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.types.json import Jsonb

from meterline_identity.tenants.rules.tenants import Onboarding, Tenant

queries = Queries("meterline_identity.tenants", "store.sql")


async def insert(connection: Connection, onboarding: Onboarding, now_us: int) -> Tenant | None:
    """The new tenant, or None when its name is taken. Waits for a concurrent transaction that inserts it."""
    now = to_datetime(now_us)
    parameters = {
        **asdict(onboarding),
        "billed_from": onboarding.first_billed_day(now),
        "onboarding": Jsonb(onboarding.statement()),
        "now": now,
    }
    cursor = await connection.execute(queries.insert, parameters, binary=True)
    return _tenant(await cursor.fetchone())


async def find(connection: Connection, slug: str) -> Tenant | None:
    cursor = await connection.execute(queries.by_slug, (slug,), binary=True)
    return _tenant(await cursor.fetchone())


async def find_many(connection: Connection, slugs: Collection[str]) -> list[Tenant]:
    """Those that exist, by number."""
    cursor = await connection.execute(queries.by_slugs, (list(slugs),), binary=True)
    return [_from_row(row) for row in await cursor.fetchall()]


async def find_for_update(connection: Connection, slug: str) -> Tenant | None:
    """As `find`; other transactions that change the tenant wait until this one ends."""
    cursor = await connection.execute(queries.by_slug_for_update, (slug,), binary=True)
    return _tenant(await cursor.fetchone())


async def find_statement(connection: Connection, slug: str) -> dict[str, str | int] | None:
    """The content of this tenant's onboarding request."""
    cursor = await connection.execute(queries.statement_by_slug, (slug,), binary=True)
    row = await cursor.fetchone()
    return row[0] if row else None


async def claim_customer(connection: Connection, customer: str, slug: str) -> bool:
    """Whether no tenant but `slug` has this customer; no other can take it until the transaction ends. Any
    number of tenants may have none."""
    if not customer:
        return True
    await connection.execute(queries.lock_customer, (customer,))
    cursor = await connection.execute(queries.is_customer_of_another, (customer, slug), binary=True)
    (row,) = await cursor.fetchall()
    return not row[0]


async def page(connection: Connection, after: int, limit: int) -> list[Tenant]:
    """At most `limit` tenants with numbers above `after`, by number."""
    cursor = await connection.execute(queries.page, (after, limit), binary=True)
    return [_from_row(row) for row in await cursor.fetchall()]


async def update(connection: Connection, tenant: Tenant) -> None:
    """Stores the version of a tenant that `find_for_update` has locked."""
    parameters = {**asdict(tenant), "updated_at": to_datetime(tenant.updated_at_us)}
    await connection.execute(queries.update, parameters, binary=True)


def _tenant(row: Sequence[Any] | None) -> Tenant | None:
    return _from_row(row) if row else None


def _from_row(row: Sequence[Any]) -> Tenant:
    fields = [*row[:-2], to_us(row[-2]), to_us(row[-1])]
    return Tenant(*fields)
