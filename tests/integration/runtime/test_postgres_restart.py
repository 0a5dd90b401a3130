"""Services recover quickly from a restart of Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from meterline.db.pool import Database
from meterline.errors import UnavailableError
from meterline_dev.servers import PostgresServer

from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.req("T7.3")]

SIZE = 6


@pytest.fixture
async def database(durable_postgres: PostgresServer) -> AsyncIterator[Database]:
    """A pool that has opened all of its connections."""
    database = Database(durable_postgres.dsn(), size=SIZE)
    await database.start()
    together = asyncio.Barrier(SIZE)

    async def use() -> None:
        async with database.connection() as connection:
            await connection.execute("SELECT 1")
            await together.wait()

    await asyncio.gather(*(use() for _ in range(SIZE)))
    yield database
    await database.stop()


async def test_postgres_restart_causes_at_most_one_failure_at_a_time(
    durable_postgres: PostgresServer, database: Database
) -> None:
    """A restart ends every session of the pool; only the first use that detects this fails."""
    await asyncio.to_thread(durable_postgres.restart)
    with pytest.raises(UnavailableError):
        await database.fetch("SELECT 1")
    for _ in range(SIZE):
        assert await database.fetch("SELECT 1") == [(1,)]


async def test_postgres_outage_is_unavailable_and_ends_soon_after_restart(
    durable_postgres: PostgresServer, database: Database
) -> None:
    await asyncio.to_thread(durable_postgres.stop)
    with pytest.raises(UnavailableError):
        await database.fetch("SELECT 1")
    await asyncio.to_thread(durable_postgres.start)

    async def answers() -> bool:
        try:
            return await database.fetch("SELECT 1") == [(1,)]
        except UnavailableError:
            return False

    await eventually(answers, seconds=12.0)
