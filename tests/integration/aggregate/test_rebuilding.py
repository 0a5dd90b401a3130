"""Maxima and unique counts with retracted events are rebuilt, and not published before.

Messages and other replicas continue during the rebuild.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, LiteralString

import pytest
from meterline.telemetry import metrics
from meterline_aggregate.folding.store import windows
from meterline_dev.servers import NatsServer
from meterline_protos.aggregate.v1 import reconciliation_pb2
from meterline_protos.common.v1 import types_pb2
from prometheus_client import Gauge

from tests.support.aggregate import (
    METERS,
    Event,
    Feed,
    Node,
    expected_usage,
    meter,
    pending_rebuilds,
    rebuilt,
    running_aggregate,
    some_events,
)
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.raw_events import History, serving

pytestmark = pytest.mark.req("T3.4", "T1.6")

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
START, SPAN = NOON - timedelta(days=20), timedelta(days=30)
REBUILT = {"longest", "aircraft", "origins"}
GRAINS = (types_pb2.GRAIN_MINUTE, types_pb2.GRAIN_HOUR, types_pb2.GRAIN_DAY, types_pb2.GRAIN_MONTH)


STAGED: Final = (
    "SELECT tenant_id FROM aggregate.rebuilt_batches UNION SELECT tenant_id FROM aggregate.rebuilt_windows"
    " UNION SELECT tenant_id FROM aggregate.rebuilt_members"
)


# Sessions that wait for the lock on the members of a tenant's meter.
WAITING: Final = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def flight(miles: str, subject: str = "N1", **more: str) -> Event:
    return Event(1, NOON, subject=subject, dimensions=more or {"origin": "JFK"}, quantities={"miles": miles})


@asynccontextmanager
async def corrected_node(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> AsyncIterator[Node]:
    """A replica with all meters and one tenant, and a fake of ingest with the events of `history`."""
    async with (
        serving(history) as address,
        running_aggregate(database, broker, ingest_address=address, reconcile_seconds=3600) as node,
    ):
        await node.create(*METERS)
        await feed.onboard(1, "acme", "America/New_York")
        yield node


@pytest.fixture
def history() -> History:
    return History({1: "acme"})


def query(database: TestDatabase, statement: LiteralString) -> list[tuple[Any, ...]]:
    return database.read("aggregate", statement)


async def retry_now(node: Node, database: TestDatabase) -> None:
    """Makes waiting rebuilds due now, except for running ones, whose leases end later."""
    await database.change(
        "UPDATE aggregate.pending_rebuilds SET next_attempt_at = now()"
        " WHERE next_attempt_at < now() + interval '40 seconds'",
    )
    node.service.rebuilder.wake()


def gauge(metric: Gauge) -> float:
    (found,) = metric.collect()
    return found.samples[0].value


async def announced(node: Node, database: TestDatabase) -> set[str]:
    """Announces; returns the meters whose months were published."""
    before = changed_months(database)
    await node.service.announcer.announce()
    return before - changed_months(database)


def changed_months(database: TestDatabase) -> set[str]:
    statement = "SELECT name FROM aggregate.changed_months JOIN aggregate.meters USING (meter_id)"
    return {name for (name,) in query(database, statement)}


async def check_all(node: Node, events: Sequence[Event]) -> None:
    for one in METERS:
        for grain in GRAINS:
            for by_group in (False, True) if one.group_by else (False,):
                expected = expected_usage(one, events, "America/New_York", grain, by_group=by_group)
                found = await node.used("acme", one.name, grain, by_group=by_group)
                # A window without remaining events stays as an empty row.
                assert {key: usage for key, usage in found.items() if any(usage)} == expected


async def month(node: Node, name: str) -> tuple[str, int, int]:
    (window,) = await node.windows("acme", name, types_pb2.GRAIN_MONTH)
    return window.value, window.event_count, window.revision


async def rebuilding(node: Node) -> set[str]:
    """Meters whose month is marked as being rebuilt, and must not be billed."""
    return {
        one.name
        for one in METERS
        for window in await node.windows("acme", one.name, types_pb2.GRAIN_MONTH)
        if window.rebuilding
    }


@pytest.mark.req("T3.2")
async def test_month_is_not_published_before_its_rebuild(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    go_on = asyncio.Event()

    async def wait(_: Sequence[str]) -> None:
        await go_on.wait()

    history.before_answer = wait
    async with corrected_node(database, broker, feed, history) as node:
        await feed.publish(history.accept([flight("5"), flight("900", "N2", origin="EWR")]))
        await feed.settled()
        assert await announced(node, database) == {one.name for one in METERS}
        before = {name: await month(node, name) for name in REBUILT}
        await feed.publish(history.accept([], [history.left[1]]))
        await feed.settled()
        assert pending_rebuilds(database) == len(REBUILT)
        # Counts and sums need no rebuild, and are published.
        assert await announced(node, database) == {"departures", "miles"}
        assert (await month(node, "miles"))[:2] == ("5", 1)
        assert changed_months(database) == REBUILT
        assert await rebuilding(node) == REBUILT
        go_on.set()
        await rebuilt(database)
        assert await rebuilding(node) == set()
        assert await announced(node, database) == REBUILT
        for name, value in {"longest": "5", "aircraft": "1", "origins": "1"}.items():
            after = await month(node, name)
            assert after[:2] == (value, 1)
            assert after[2] > before[name][2] + 1
        await check_all(node, history.events())
        await node.service.rebuilder.rebuild_due()
        assert gauge(metrics.REBUILDS_PENDING) == 0


async def test_month_without_remaining_events_is_zero(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    async with corrected_node(database, broker, feed, history) as node:
        await feed.publish(history.accept([flight("-5"), flight("-7", "N2")]))
        await feed.publish(history.accept([], list(history.left)))
        await feed.settled()
        await rebuilt(database)
        for one in METERS:
            assert (await month(node, one.name))[:2] == ("0", 0)
        await feed.publish(history.accept([flight("-9", "N2")]))
        await feed.settled()
        # The 0 of a maximum without events is no lower bound for later events.
        await check_all(node, history.events())


async def test_retraction_before_its_event_waits_for_it(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    async with corrected_node(database, broker, feed, history) as node:
        # The retracted and the added event differ for every meter: otherwise a meter could be right without a
        # rebuild.
        late = history.accept([flight("900", "N2", origin="EWR"), flight("7")])
        kept = history.left[1]
        await feed.publish(history.accept([flight("3")], [history.left[0]]))
        await feed.settled()
        assert await node.service.rebuilder.rebuild_due() == 0
        assert pending_rebuilds(database) == len(REBUILT)
        assert REBUILT.isdisjoint(await announced(node, database))
        await feed.publish(late)
        await feed.settled()
        await retry_now(node, database)
        await rebuilt(database)
        assert kept in history.left
        await check_all(node, history.events())


async def test_rebuild_includes_events_folded_meanwhile(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    """New events arrive in every round, so that the last round must block folds."""
    asked: list[int] = []

    async def fold_more(batch_ids: Sequence[str]) -> None:
        asked.append(len(batch_ids))
        if len(asked) <= 5:
            await feed.publish(history.accept([flight(str(1000 + len(asked)), f"M{len(asked)}")]))
            await feed.settled()

    async with corrected_node(database, broker, feed, history) as node:
        await feed.publish(history.accept([flight("5"), flight("9000", "N2")]))
        await feed.settled()
        history.before_answer = fold_more
        await feed.publish(history.accept([], [history.left[1]]))
        await feed.settled()
        await rebuilt(database)
        # The retracting batch, then all batches, then in each round the new one.
        assert asked[:6] == [1, 3, 1, 1, 1, 1]
        history.before_answer = None
        await feed.settled()
        await check_all(node, history.events())


async def test_retraction_during_rebuild_restarts_it(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    asked: list[int] = []

    async def retract_more(batch_ids: Sequence[str]) -> None:
        asked.append(len(batch_ids))
        if len(asked) == 2:
            await feed.publish(
                history.accept([], [kept for kept in history.left if kept.event.subject == "N3"])
            )
            await feed.settled()

    async with corrected_node(database, broker, feed, history) as node:
        await feed.publish(history.accept([flight("5"), flight("9000", "N2"), flight("8000", "N3")]))
        await feed.settled()
        history.before_answer = retract_more
        await feed.publish(history.accept([], [history.left[1]]))
        await feed.settled()
        await rebuilt(database)
        # The retracting batch, then all; after the restart both again, with the new batch.
        assert asked[:4] == [1, 2, 2, 3]
        assert (await month(node, "longest"))[:2] == ("5", 1)
        await check_all(node, history.events())


async def test_rebuild_blocks_concurrent_member_insert(
    database: TestDatabase,
    broker: NatsServer,
    feed: Feed,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fold that finds an existing member does not count it, so the rebuild must not remove it meanwhile."""
    ask, between, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(_: Sequence[str]) -> None:
        await ask.wait()

    apply_rest = windows._apply

    async def pause(*given: Any) -> None:
        between.set()
        await go_on.wait()
        await apply_rest(*given)

    async with corrected_node(database, broker, feed, history) as node:
        await feed.publish(history.accept([flight("5"), flight("900", "N2")]))
        await feed.settled()
        history.before_answer = wait
        await feed.publish(history.accept([], [history.left[1]]))
        await feed.settled()
        monkeypatch.setattr(windows, "_apply", pause)
        await feed.publish(history.accept([flight("7", "N2")]))
        await between.wait()
        ask.set()
        await eventually(lambda: pending_rebuilds(database) == 0 or query(database, WAITING))
        go_on.set()
        await feed.settled()
        await rebuilt(database)
        await check_all(node, history.events())


async def test_lost_claim_changes_nothing_and_expired_claim_is_taken_over(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    """A replica whose lease expired finds that another one has claimed the month."""
    thefts: list[str] = []
    stolen = asyncio.Event()

    async def steal(_: Sequence[str]) -> None:
        if not thefts:
            thefts.append("begun")
            await database.change(
                "UPDATE aggregate.pending_rebuilds SET rebuild_id = gen_random_uuid(),"
                " next_attempt_at = now() + interval '1 hour';"
                # A new claim deletes staged rows of the earlier one.
                " DELETE FROM aggregate.rebuilt_batches; DELETE FROM aggregate.rebuilt_windows;"
                " DELETE FROM aggregate.rebuilt_members",
            )
            # Set after the change: otherwise the test's own rebuild could claim the month first.
            stolen.set()

    async with corrected_node(database, broker, feed, history) as node:
        await feed.publish(history.accept([flight("5"), flight("900", "N2")]))
        await feed.settled()
        history.before_answer = steal
        await feed.publish(history.accept([], [history.left[1]]))
        await feed.settled()
        await stolen.wait()
        assert await node.service.rebuilder.rebuild_due() == 0
        assert pending_rebuilds(database) == len(REBUILT)
        assert (await month(node, "longest"))[:2] == ("900", 1)
        await database.change("UPDATE aggregate.pending_rebuilds SET next_attempt_at = now()")
        node.service.rebuilder.wake()
        await rebuilt(database)
        await check_all(node, history.events())
        assert query(database, STAGED) == []


@pytest.mark.req("T2.1")
async def test_replicas_fold_and_rebuild_concurrently(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    """All values are exact in the end: the replicas neither deadlock nor overwrite each other."""
    order = random.Random(5)
    async with (
        corrected_node(database, broker, feed, history) as node,
        serving(history) as address,
        running_aggregate(database, broker, ingest_address=address, batch_messages=3, reconcile_seconds=3600),
    ):
        for seed in range(40):
            await feed.publish(history.accept(some_events(1, 12, seed=seed, start=START, span=SPAN)))
            if seed % 4 == 3:
                retracted = order.sample(history.left, 3)
                added = [replace(retracted[0].event, quantities={"miles": str(Decimal(order.randint(0, 9)))})]
                await feed.publish(history.accept(added, retracted))
        await feed.settled()

        async def left() -> int:
            await retry_now(node, database)
            return pending_rebuilds(database)

        await eventually(left, seconds=60, until=lambda number: number == 0)
        await check_all(node, history.events())


async def test_rebuild_of_a_younger_meter_keeps_its_events(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    later = (
        meter("late.count", types_pb2.AGGREGATION_COUNT),
        meter("late.max", types_pb2.AGGREGATION_MAX, quantity="miles"),
    )
    async with corrected_node(database, broker, feed, history) as node:
        await feed.publish(history.accept([flight("5"), flight("900", "N2")]))
        await feed.settled()
        await node.create(*later)
        await feed.publish(history.accept([flight("1")]))
        await feed.publish(history.accept([flight("3", "N2")], [history.left[1]]))
        await feed.settled()
        await rebuilt(database)
        assert (await month(node, "late.count"))[:2] == ("2", 2)
        assert (await month(node, "late.max"))[:2] == ("3", 2)
        await check_all(node, history.events())


@pytest.mark.req("X2")
async def test_reconciliation_totals_include_corrections(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    async with corrected_node(database, broker, feed, history) as node:
        await feed.publish(history.accept([flight("5"), flight("900", "N2"), flight("2")]))
        await feed.publish(history.accept([flight("6")], history.left[:2]))
        await feed.settled()
        request = reconciliation_pb2.CompareRequest(tenant_id="acme")
        (compared,) = (await node.reconciliation.Compare(request)).tenants
        assert (compared.accepted, compared.aggregated, compared.gap) == (2, 2, 0)
