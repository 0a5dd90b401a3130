"""A rebuild of a tenant's unique count holds up who folds into that count, and nobody else."""

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
# As the release before this one does: it takes no lock, and has no time to wait for any.
MEMBER: Final[LiteralString] = """
INSERT INTO aggregate.window_members (grain, tenant_id, meter_id, window_start, group_id, member)
SELECT grain, tenant_id, meter_id, window_start, group_id, member FROM aggregate.window_members
WHERE tenant_id = %s
ON CONFLICT DO NOTHING
"""


@dataclass
class Held:
    """Two replicas. The first waits before it replaces a month of the first tenant, with all its locks."""

    first: Tables
    second: Tables
    history: History
    go_on: asyncio.Event
    rebuild: asyncio.Task[None]


@pytest.fixture
async def held(database: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Held]:
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
            await first.handle([history.tell([event, replace(event, subject="N2")])])
        await first.handle([history.tell([], [history.left[1]])])
        monkeypatch.setattr(store, "replace", wait)
        rebuild = asyncio.create_task(first.rebuild_now())
        await begun.wait()
        yield Held(first, second, history, go_on, rebuild)
        go_on.set()
        await rebuild


async def test_other_tenants_are_folded_and_rebuilt_meanwhile(held: Held, database: TestDatabase) -> None:
    async with asyncio.timeout(4):
        await held.second.handle([held.history.tell([replace(OTHERS, subject="N3")])])
        gone = next(kept for kept in held.history.left if kept.event == OTHERS)
        await held.second.handle([held.history.tell([], [gone])])
        await held.second.rebuilder.rebuild_due()
    # Its own month is done, and the first tenant's is not.
    assert pending_rebuilds(database) == 1
    assert database.read("aggregate", MONTHS) == [(1, 2, 1), (2, 2, 2)]
    held.go_on.set()
    await held.rebuild
    assert database.read("aggregate", MONTHS) == [(1, 1, 1), (2, 2, 2)]


async def test_the_tenants_own_members_wait(held: Held, database: TestDatabase) -> None:
    """Who folds finds that N2 is a member as long as it is one; so it has to be looked for afterwards."""
    folding = asyncio.create_task(
        held.second.handle([held.history.tell([replace(FLIGHT, subject="N2"), OTHERS])])
    )
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await eventually(lambda: database.read("aggregate", waiting)[0][0])
    held.go_on.set()
    await folding
    await held.rebuild
    assert database.read("aggregate", MONTHS) == [(1, 2, 2), (2, 2, 3)]


async def test_a_replica_of_the_release_before_waits_too(held: Held, database: TestDatabase) -> None:
    def store_member(tenant: int) -> None:
        with psycopg.connect(database.admin_dsn, options="-c lock_timeout=100") as connection:
            connection.execute(MEMBER, (tenant,))

    await asyncio.to_thread(store_member, 2)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        await asyncio.to_thread(store_member, 1)
