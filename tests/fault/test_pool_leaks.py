"""Fault 11: interleaved tenants on a small pool, with cancelled, failed and killed transactions.

Transactions of different tenants share a connection. However a transaction ends, the next one on the same
connection must not see rows of the previous tenant.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import psycopg
import pytest
from meterline.db import scope
from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS, NO_TENANT, Scope
from meterline.errors import UnavailableError

from tests.fault.conftest import LONG
from tests.support.databases import TestDatabase
from tests.support.runtime import end_sessions

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300), pytest.mark.req("T4.1", "X7")]

TENANTS: Final = (1, 2, 3, 4, 5)
POOL: Final = 3
LANES: Final = 12
# Enough for some of each way to end, of which the rarest is one in 120.
TRANSACTIONS: Final = 12_000 if LONG else 1_500


class BrokenOffError(Exception):
    """An error raised by a handler."""


@pytest.fixture
def database(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    made = make_database("ingest")
    with psycopg.connect(made.admin_dsn) as admin:
        for tenant_id in TENANTS:
            admin.execute("INSERT INTO ingest.subjects (tenant_id, subject) VALUES (%s, 's')", (tenant_id,))
    return made


@asynccontextmanager
async def pool_of(database: TestDatabase) -> AsyncIterator[Database]:
    pool = Database(database.app_dsn("ingest"), size=POOL)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


def visible_to(tenants: Scope) -> list[int]:
    return list(TENANTS) if tenants == ALL_TENANTS else sorted(int(each) for each in tenants)


class Traffic:
    """Transactions of random tenants that end in random ways. `leaks`: those that saw wrong rows."""

    def __init__(self, database: TestDatabase, pool: Database, seed: int) -> None:
        self._database = database
        self._pool = pool
        self._random = random.Random(seed)
        self.leaks: list[tuple[Scope, list[int]]] = []
        self.ended: dict[str, int] = {}
        self.whole = 0

    async def run(self, transactions: int) -> None:
        await asyncio.gather(*(self._lane(transactions // LANES) for _ in range(LANES)))

    async def _lane(self, transactions: int) -> None:
        for _ in range(transactions):
            way = self._random.choices(
                ["commit", "rollback", "failure", "error", "cancel", "killed"], [6, 4, 3, 3, 8, 0.2]
            )[0]
            scopes: list[Scope] = [NO_TENANT, ALL_TENANTS, self._random.sample(TENANTS, 2)]
            scopes += [[each] for each in TENANTS]
            tenants = self._random.choice(scopes)
            call = asyncio.create_task(self._transaction(tenants, way))
            if way == "cancel":
                await asyncio.wait({call}, timeout=self._random.random() * 0.01)
                call.cancel()
            (result,) = await asyncio.gather(call, return_exceptions=True)
            expected = (
                asyncio.CancelledError,
                BrokenOffError,
                UnavailableError,
                psycopg.errors.DivisionByZero,
            )
            if isinstance(result, BaseException) and not isinstance(result, expected):
                raise result
            kind = "done" if result is None else type(result).__name__
            self.ended[kind] = self.ended.get(kind, 0) + 1

    async def _transaction(self, tenants: Scope, way: str) -> None:
        async with self._pool.connection(tenants) as connection:
            for _ in range(2):
                cursor = await connection.execute("SELECT tenant_id FROM subjects ORDER BY 1")
                seen = [tenant_id for (tenant_id,) in await cursor.fetchall()]
                self.whole += 1
                if seen != visible_to(tenants):
                    self.leaks.append((tenants, seen))
            match way:
                case "commit":
                    await connection.commit()
                case "failure":
                    raise BrokenOffError
                case "error":
                    await connection.execute("SELECT 1 / 0")
                case "killed":
                    await asyncio.to_thread(end_sessions, self._database)
                    await connection.execute("SELECT 1")


async def traffic(database: TestDatabase, transactions: int) -> Traffic:
    async with pool_of(database) as pool:
        made = Traffic(database, pool, seed=11)
        await made.run(transactions)
    return made


async def test_no_transaction_sees_rows_of_the_previous_tenant(database: TestDatabase) -> None:
    made = await traffic(database, TRANSACTIONS)
    assert made.leaks == []
    assert made.whole > TRANSACTIONS // 2
    assert {
        "done",
        "CancelledError",
        "BrokenOffError",
        "DivisionByZero",
        "UnavailableError",
    } <= made.ended.keys()
    assert made.ended["CancelledError"] > TRANSACTIONS // 50, "otherwise the test proves nothing"


async def test_scope_set_for_the_session_is_caught(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: the scope outlives its transaction, and a transaction without a scope inherits it."""
    monkeypatch.setattr(scope, "SET_SCOPE", "SELECT set_config('meterline.tenant_ids', %(tenants)s, false)")
    made = await traffic(database, TRANSACTIONS // 4)
    assert made.leaks
    assert all(tenants == NO_TENANT for tenants, _ in made.leaks)
