"""A rebuild of a tenant's unique count blocks only folds into that count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import psycopg
import pytest
from meterline_aggregate.rebuilds import store
from meterline_aggregate.rebuilds.store import Claim

from tests.support.aggregate import METERS, Event, pending_rebuilds
from tests.support.aggregate_tables import Tables
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.raw_events import History, serving

pytestmark = pytest.mark.req("T3.4", "T1.6")

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
FLIGHT = Event(1, NOON, subject="N1", dimensions={"origin": "JFK"}, quantities={"miles": "5"})
OTHERS = replace(FLIGHT, tenant=2)
UNIQUE = [one for one in METERS if one.name == "aircraft"]
MONTHS: Final = """
SELECT tenant_id, value::int, event_count FROM windows WHERE grain = 4 AND group_id = 0
ORDER BY tenant_id
"""
# The statement of the previous release, which takes no advisory lock and has a lock timeout.
MEMBER: Final[LiteralString] = """
INSERT INTO aggregate.window_members (grain, tenant_id, meter_id, window_start, group_id, member)
SELECT grain, tenant_id, meter_id, window_start, group_id, member FROM aggregate.window_members
WHERE tenant_id = %s
ON CONFLICT DO NOTHING
"""


@dataclass
class PausedRebuild:
    """Two replicas. The first pauses, with all locks, before it replaces a month of the first tenant."""

    first: Tables
    second: Tables
    history: History
    go_on: asyncio.Event
    rebuild: asyncio.Task[None]


@pytest.fixture
async def paused(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PausedRebuild]:
    history = History({1: "acme", 2: "other"})
    begun, go_on = asyncio.Event(), asyncio.Event()
    replace_month = store.replace

    async def wait(connection: Any, claimed: Claim, *more: Any) -> bool:
        if claimed.month.tenant_id == 1:
            begun.set()
            await go_on.wait()
        return await replace_month(connection, claimed, *more)

    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(history))
        dsn = database.app_dsn("aggregate")
        first, second = [await stack.enter_async_context(Tables(dsn, address)) for _ in range(2)]
        await first.create_meters(UNIQUE)
        for number, slug in history.tenants.items():
            await first.onboard(number, slug, "UTC")
        for event in (FLIGHT, OTHERS):
            await first.handle([history.accept([event, replace(event, subject="N2")])])
        await first.handle([history.accept([], [history.left[1]])])
        monkeypatch.setattr(store, "replace", wait)
        rebuild = asyncio.create_task(first.rebuild_now())
        await begun.wait()
        yield PausedRebuild(first, second, history, go_on, rebuild)
        go_on.set()
        await rebuild


async def test_rebuild_does_not_block_other_tenants(paused: PausedRebuild, database: TestDatabase) -> None:
    async with asyncio.timeout(4):
        await paused.second.handle([paused.history.accept([replace(OTHERS, subject="N3")])])
        retracted = next(kept for kept in paused.history.left if kept.event == OTHERS)
        await paused.second.handle([paused.history.accept([], [retracted])])
        await paused.second.rebuilder.rebuild_due()
    # The second tenant's month is rebuilt, and the first one's is not.
    assert pending_rebuilds(database) == 1
    assert database.read("aggregate", MONTHS) == [(1, 2, 1), (2, 2, 2)]
    paused.go_on.set()
    await paused.rebuild
    assert database.read("aggregate", MONTHS) == [(1, 1, 1), (2, 2, 2)]


async def test_rebuild_blocks_folds_of_the_same_tenant(paused: PausedRebuild, database: TestDatabase) -> None:
    """The rebuild removes the member N2, so a fold must check for N2 after the rebuild."""
    folding = asyncio.create_task(
        paused.second.handle([paused.history.accept([replace(FLIGHT, subject="N2"), OTHERS])])
    )
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await eventually(lambda: database.read("aggregate", waiting)[0][0])
    paused.go_on.set()
    await folding
    await paused.rebuild
    assert database.read("aggregate", MONTHS) == [(1, 2, 2), (2, 2, 3)]


async def test_rebuild_blocks_the_previous_release(paused: PausedRebuild, database: TestDatabase) -> None:
    def store_member(tenant: int) -> None:
        with psycopg.connect(database.admin_dsn, options="-c lock_timeout=100") as connection:
            connection.execute(MEMBER, (tenant,))

    await asyncio.to_thread(store_member, 2)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        await asyncio.to_thread(store_member, 1)
