"""The bound of ADR 9 in real Postgres, with random pauses, changes and concurrent calls on replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from meterline.db.pool import Database
from meterline.remembered.book import Source
from meterline_ingest.rate_limits.rules.lease import Ask, Grant
from meterline_ingest.rate_limits.rules.limits import LimitBook, Limits
from meterline_ingest.rate_limits.store.buckets import BucketRepository
from meterline_ingest.rate_limits.store.limits import LimitRepository

from tests.support.databases import TestDatabase
from tests.support.limit_scenarios import AFTER_QUIET, LARGE_LEASES, scenarios
from tests.support.limit_world import ACME, US, Buckets, Step, World

pytestmark = pytest.mark.req("T4.2")


class PostgresStore:
    """Limits and buckets of the service, in real time; `wait` skips time."""

    def __init__(self, database: Database, admin_dsn: str) -> None:
        self._database = database
        self._repository = LimitRepository(database)
        self._buckets = BucketRepository(database)
        self._admin_dsn = admin_dsn
        self._skipped_us = 0
        self.longest_exchange_us = 0
        self.limits: Source[LimitBook] = self._repository
        self.buckets: Buckets = self

    def now_us(self) -> int:
        return time.monotonic_ns() // 1_000 + self._skipped_us

    async def wait(self, microseconds: int) -> None:
        # In another thread: an exchange of this thread may hold the lock of the row.
        await asyncio.to_thread(self._skip, microseconds)
        self._skipped_us += microseconds

    def _skip(self, microseconds: int) -> None:
        with psycopg.connect(self._admin_dsn) as connection:
            connection.execute(
                "UPDATE ingest.rate_buckets SET filled_at = filled_at - %s * interval '1 microsecond'",
                (microseconds,),
            )

    async def put(self, limits: Limits) -> None:
        async with self._database.connection([ACME]) as connection:
            await self._repository.put_tenant(connection, ACME, limits, "test")
            await connection.commit()

    async def exchange(self, asks: Sequence[Ask]) -> dict[int, Grant]:
        asked_at = self.now_us()
        grants = await self._buckets.exchange(asks)
        self.longest_exchange_us = max(self.longest_exchange_us, self.now_us() - asked_at)
        return grants

    def empty(self) -> None:
        """Deletes the buckets."""
        with psycopg.connect(self._admin_dsn) as connection:
            connection.execute("DELETE FROM ingest.rate_buckets")


@pytest.fixture
async def store(database: TestDatabase) -> AsyncIterator[PostgresStore]:
    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute(
            "INSERT INTO ingest.tenants VALUES"
            " (%s, 'acme', 1, 'UTC', 'USD', 'basic', '', '', true, '0', now())",
            (ACME,),
        )
    opened = Database(database.app_dsn("ingest"), size=4)
    await opened.start()
    try:
        yield PostgresStore(opened, database.admin_dsn)
    finally:
        await opened.stop()


async def beyond_the_bound(store: PostgresStore, steps: Sequence[Step]) -> float:
    await asyncio.to_thread(store.empty)
    world = World(store)
    await world.run(steps)
    return float(world.beyond_the_bound())


async def test_replicas_admit_no_more_than_the_bound(store: PostgresStore) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(scenarios(steps=12))
    def holds(steps: list[Step]) -> None:
        assert asyncio.run_coroutine_threadsafe(beyond_the_bound(store, steps), loop).result(60) == 0

    await asyncio.to_thread(holds)


@pytest.mark.parametrize("steps", [AFTER_QUIET, LARGE_LEASES])
async def test_bound_holds_in_scenarios_that_reveal_planted_bugs(
    store: PostgresStore, steps: tuple[Step, ...]
) -> None:
    world = World(store)
    await world.run(steps)
    assert world.beyond_the_bound() == 0
    assert any(call.began > world.changes[-1][0] + 2 * US for call in world.admitted), (
        "some calls are admitted after the change"
    )
