"""A connection keeps its prepared statements, whatever way its transactions end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from meterline.db.pool import Database

from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("K3")


@pytest.fixture
async def database(bare_database: TestDatabase) -> AsyncIterator[Database]:
    """A pool of one connection."""
    pool = Database(bare_database.app_dsn("ingest"), size=1)
    await pool.start()
    yield pool
    await pool.stop()


async def prepared(database: Database) -> set[str]:
    return {text for (text,) in await database.fetch("SELECT statement FROM pg_prepared_statements")}


@pytest.mark.parametrize("commits", [False, True], ids=["read", "committed"])
async def test_statement_stays_prepared_after_transactions(database: Database, commits: bool) -> None:
    for _ in range(4):
        async with database.connection() as connection:
            await connection.execute("SELECT count(*) FROM outbox")
            if commits:
                await connection.commit()

    assert "SELECT count(*) FROM outbox" in await prepared(database)


async def test_failed_transaction_is_rolled_back_and_keeps_prepared_statements(database: Database) -> None:
    async def fail() -> None:
        async with database.connection() as connection:
            await connection.execute("SELECT count(*) FROM inbox")
            await connection.execute("SELECT 1 / 0")

    for _ in range(4):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await fail()

    assert "SELECT count(*) FROM inbox" in await prepared(database)


async def test_uncommitted_rows_are_rolled_back(database: Database) -> None:
    for _ in range(4):
        async with database.connection() as connection:
            await connection.execute(
                "INSERT INTO inbox (consumer, message_id) VALUES ('probe', gen_random_uuid())"
            )

    assert await database.fetch("SELECT count(*) FROM inbox") == [(0,)]
