"""Token buckets in real Postgres: the SQL statement equals a plain model, and replicas share a limit."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline.db.pool import Database
from meterline.db.scope import NO_TENANT
from meterline.errors import QuotaError, UnavailableError
from meterline_ingest.rate_limits import limiter as rate_limiter
from meterline_ingest.rate_limits.limiter import Need, RateLimiter
from meterline_ingest.rate_limits.rules.lease import Ask, Grant
from meterline_ingest.rate_limits.rules.limits import MILLIONTHS, Limits
from meterline_ingest.rate_limits.store.buckets import BucketRepository

from tests.support.buckets import Bucket
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T4.2")

ACME, BOLT = 1, 2
RATE, BURST = 1_000, 500
LIMITS = Limits(RATE, BURST)


def seed(database: TestDatabase, *tenants: int, limits: Limits = LIMITS) -> None:
    """Inserts tenants with the plan `basic`, and the limits of the plan."""
    with psycopg.connect(database.admin_dsn) as connection:
        for tenant in tenants:
            connection.execute(
                "INSERT INTO ingest.tenants VALUES"
                " (%s, 'tenant-' || %s, 1, 'UTC', 'USD', 'basic', '', '', true, '0', now())",
                (tenant, tenant),
            )
        connection.execute(
            "INSERT INTO ingest.plan_limits VALUES ('basic', %s, %s, 1, '')",
            (limits.events_per_second, limits.burst),
        )


def level(database: TestDatabase, tenant: int) -> int:
    ((found,),) = database.read("ingest", "SELECT level FROM rate_buckets WHERE tenant_id = %s", tenant)
    return int(found)


@pytest.fixture
async def open_database(database: TestDatabase) -> AsyncIterator[Callable[[], Awaitable[Database]]]:
    """A function that opens another pool, like another replica."""
    async with AsyncExitStack() as stack:

        async def make() -> Database:
            opened = Database(database.app_dsn("ingest"), size=2)
            stack.push_async_callback(opened.stop)
            await opened.start()
            return opened

        yield make


OpenDatabase = Callable[[], Awaitable[Database]]


@asynccontextmanager
async def limiters(open_database: OpenDatabase, count: int) -> AsyncIterator[list[RateLimiter]]:
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(RateLimiter(BucketRepository(await open_database())))
            stack.push_async_callback(made[-1].stop)
            await made[-1].start()
        yield made


def need(events: int, tenant: int = ACME, limits: Limits = LIMITS) -> Need:
    return Need(tenant, f"tenant-{tenant}", limits, events)


async def admitted(limiter: RateLimiter, *needs: Need) -> bool:
    try:
        await limiter.acquire(needs)
    except QuotaError:
        return False
    return True


async def test_exchange_statement_equals_the_model(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    """The refill rate is so low that no token is added during the test."""
    limits = Limits(1, 2_000)
    seed(database, ACME, limits=limits)
    buckets = BucketRepository(await open_database())
    (full,) = (await buckets.exchange([Ask(ACME, 0, 0, 0, LIMITS)])).values()
    assert full == Grant(0, limits.burst * MILLIONTHS, 1), "a new bucket is full"
    loop = asyncio.get_running_loop()
    admin = psycopg.connect(database.admin_dsn, autocommit=True)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.integers(-3_000, 2_500),
        st.integers(0, 3_000),
        st.integers(0, 3_000),
        st.integers(0, 500),
        # Returned tokens may have been taken under earlier limits.
        st.sampled_from([limits, limits, replace(limits, burst=500), LIMITS]),
    )
    def holds(before: int, wanted: int, ahead: int, back: int, asked: Limits) -> None:
        ask = Ask(ACME, wanted, ahead, back, asked)
        # A quarter of an event more, so that small refills never complete an event.
        start = before * MILLIONTHS + MILLIONTHS // 4
        admin.execute("UPDATE ingest.rate_buckets SET level = %s, filled_at = clock_timestamp()", (start,))
        answer = asyncio.run_coroutine_threadsafe(buckets.exchange([ask]), loop).result(30)[ACME]
        model = Bucket(limits)
        model.level = start
        expected = model.exchange(ask, 0)
        assert answer.tokens == expected.tokens
        assert 0 <= answer.level - expected.level < MILLIONTHS // 2

    with admin:
        await asyncio.to_thread(holds)


async def test_bucket_fills_by_the_database_clock(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    seed(database, ACME)
    buckets = BucketRepository(await open_database())
    await buckets.exchange([Ask(ACME, BURST, 0, 0, LIMITS)])
    for elapsed, filled in (("200 milliseconds", 200), ("1 day", BURST), ("-1 day", 0)):
        with psycopg.connect(database.admin_dsn) as connection:
            connection.execute(
                "UPDATE ingest.rate_buckets SET level = 0,"
                " filled_at = clock_timestamp() - %s::text::interval",
                (elapsed,),
            )
        (grant,) = (await buckets.exchange([Ask(ACME, 0, 0, 0, LIMITS)])).values()
        # The bucket also fills during the statements.
        assert filled <= grant.level // MILLIONTHS <= min(BURST, filled + 100), elapsed


async def test_tenant_without_limits_has_no_bucket(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    seed(database, ACME)
    buckets = BucketRepository(await open_database())
    assert set(await buckets.exchange([Ask(ACME, 1, 0, 0, LIMITS), Ask(BOLT, 1, 0, 0, LIMITS)])) == {ACME}


async def test_bucket_uses_limits_of_the_tenant(database: TestDatabase, open_database: OpenDatabase) -> None:
    seed(database, ACME, BOLT)
    with psycopg.connect(database.admin_dsn) as connection:
        connection.execute("INSERT INTO ingest.tenant_limits VALUES (%s, 7, 70, 1, '')", (ACME,))
    grants = await BucketRepository(await open_database()).exchange(
        [Ask(tenant, 0, 1_000, 0, LIMITS) for tenant in (ACME, BOLT)]
    )
    assert {tenant: grant.tokens for tenant, grant in grants.items()} == {ACME: 70, BOLT: BURST}


@pytest.mark.req("T4.1")
async def test_buckets_of_other_tenants_are_invisible(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    seed(database, ACME, BOLT)
    opened = await open_database()
    await BucketRepository(opened).exchange([Ask(ACME, 0, 0, 0, LIMITS), Ask(BOLT, 0, 0, 0, LIMITS)])
    query = "SELECT tenant_id FROM rate_buckets ORDER BY tenant_id"
    assert await opened.fetch(query, tenants=NO_TENANT) == []
    assert await opened.fetch(query, tenants=[BOLT]) == [(BOLT,)]


async def test_concurrent_exchanges_grant_each_token_once(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    """The replicas exchange in opposite orders, without deadlocks."""
    tenants = list(range(1, 41))
    seed(database, *tenants, limits=Limits(1, 1_000))
    replicas = [BucketRepository(await open_database()) for _ in range(4)]

    async def work(replica: BucketRepository, order: Sequence[int]) -> Counter[int]:
        taken: Counter[int] = Counter()
        for _ in range(10):
            grants = await replica.exchange([Ask(tenant, 0, 5, 0, LIMITS) for tenant in order])
            taken.update({tenant: grant.tokens for tenant, grant in grants.items()})
        return taken

    totals = await asyncio.gather(
        *(work(replica, tenants[:: (-1) ** at]) for at, replica in enumerate(replicas))
    )
    assert sum(totals, Counter()) == dict.fromkeys(tenants, 4 * 10 * 5)


async def flood(replicas: Sequence[RateLimiter], seconds: float, events: int) -> tuple[int, float]:
    """Calls without pause on all replicas; returns (admitted events, elapsed seconds)."""
    started = time.monotonic()

    async def one(limiter: RateLimiter) -> int:
        total = 0
        while time.monotonic() < started + seconds:
            total += events * await admitted(limiter, need(events))
            await asyncio.sleep(0)
        return total

    total = sum(await asyncio.gather(*(one(limiter) for limiter in replicas for _ in range(4))))
    return total, time.monotonic() - started


@pytest.mark.parametrize("events", [1, 30, 700])
async def test_replicas_share_one_limit(
    database: TestDatabase, open_database: OpenDatabase, events: int
) -> None:
    seed(database, ACME)
    count = 3
    async with limiters(open_database, count) as replicas:
        total, seconds = await flood(replicas, 0.75, events)
    bound = BURST + RATE * seconds + count * LIMITS.block + events - 1
    # Leases waste few tokens: more than half of the allowed events are admitted.
    assert BURST + RATE * seconds / 2 <= total <= bound


async def test_separate_buckets_of_replicas_are_caught(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    """Planted bug: each replica has its own bucket. The same bound detects it."""
    seed(database, ACME, 2, 3)
    async with limiters(open_database, 3) as replicas:
        started = time.monotonic()
        total = 0
        for tenant, limiter in enumerate(replicas, start=1):
            while await admitted(limiter, need(50, tenant)):
                total += 50
        seconds = time.monotonic() - started
    assert total > BURST + RATE * seconds + 3 * LIMITS.block + 50 - 1


async def test_call_larger_than_the_burst_is_admitted_and_delays_later_calls(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    seed(database, ACME)
    async with limiters(open_database, 1) as (limiter,):
        await limiter.acquire([need(10 * BURST)])
        with pytest.raises(QuotaError) as refused:
            await limiter.acquire([need(1)])
    owed = 9 * BURST / RATE
    assert owed - 1 < refused.value.retry_after <= owed + 0.2
    assert refused.value.violations == {"tenant:tenant-1": f"{RATE} events a second, {BURST} at once"}


async def test_refused_call_returns_tokens_of_all_tenants(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    seed(database, ACME, BOLT, limits=Limits(1, BURST))
    slow = Limits(1, BURST)
    async with limiters(open_database, 1) as (limiter,):
        await limiter.acquire([need(BURST, BOLT, slow)])
        with pytest.raises(QuotaError) as refused:
            await limiter.acquire([need(100, ACME, slow), need(1, BOLT, slow)])
        assert set(refused.value.violations) == {"tenant:tenant-2"}
    # Stopping the limiter returns the unused tokens of its lease.
    assert level(database, ACME) == BURST * MILLIONTHS


async def test_unused_tokens_are_returned_automatically(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    seed(database, ACME, limits=Limits(100, BURST))
    async with limiters(open_database, 1) as (limiter,):
        await limiter.acquire([need(1, limits=Limits(100, BURST))])
        assert level(database, ACME) == (BURST - 11) * MILLIONTHS
        await eventually(lambda: level(database, ACME), until=lambda found: found >= (BURST - 1) * MILLIONTHS)


async def test_cancelled_callers_release_their_tokens(
    database: TestDatabase, open_database: OpenDatabase
) -> None:
    slow = Limits(1, BURST)
    seed(database, ACME, limits=slow)
    async with limiters(open_database, 1) as (limiter,):
        callers = [asyncio.create_task(limiter.acquire([need(50, limits=slow)])) for _ in range(10)]
        await asyncio.sleep(0)
        for caller in callers[::2]:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert [caller.cancelled() for caller in callers] == [True, False] * 5
        assert await admitted(limiter, need(BURST // 2, limits=slow))
    assert 0 <= level(database, ACME) // MILLIONTHS < 50


async def answered(limiter: RateLimiter) -> bool:
    try:
        return await admitted(limiter, need(1))
    except UnavailableError:
        return False


@pytest.mark.req("T7.3")
async def test_calls_are_unavailable_while_exchange_hangs_and_recover(
    database: TestDatabase, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limiter, "EXCHANGE_SECONDS", 0.2)
    seed(database, ACME)
    async with limiters(open_database, 1) as (limiter,):
        with psycopg.connect(database.admin_dsn) as connection:
            connection.execute("LOCK TABLE ingest.rate_buckets IN ACCESS EXCLUSIVE MODE")
            calls = [limiter.acquire([need(1)]) for _ in range(3)]
            outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 3
        # Calls are refused until the hanging exchange has timed out.
        await eventually(lambda: answered(limiter))
