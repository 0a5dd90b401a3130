"""Meters of kinds that only a newer release knows: older replicas skip them, newer ones count exactly."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.consuming.delivery import Delivery
from meterline.ids import new_id
from meterline.telemetry import metrics
from meterline_dev.servers import NatsServer
from meterline_protos.aggregate.v1 import meters_pb2
from meterline_protos.common.v1 import types_pb2
from structlog.testing import capture_logs

from tests.integration.aggregate.test_folding_corrections import (
    PAGE_LIMITS,
    ZONES,
    corrected,
    expected,
    stored,
)
from tests.support.aggregate import (
    METERS,
    Event,
    Feed,
    Node,
    meter,
    pending_rebuilds,
    rebuilt,
    running_aggregate,
)
from tests.support.aggregate_tables import Tables
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.raw_events import History, serving

pytestmark = pytest.mark.req("T2.2", "T1.6", "O9")

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
MONTH = types_pb2.GRAIN_MONTH
# Meters of the new kinds, one of each, and a filtered count. All releases know the others.
NEW_KINDS = ["miles", "longest", "aircraft", "origins", "jfk"]
MAKE_UNKNOWN = "UPDATE aggregate.meters SET aggregation = aggregation + 100 WHERE name = ANY(%s)"
MAKE_KNOWN = "UPDATE aggregate.meters SET aggregation = aggregation - 100 WHERE aggregation > 100"
SKIPPED = "SELECT count(*) FROM skipped"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"

_numbers = itertools.count(1)


def flight(miles: str, subject: str = "N1", origin: str = "JFK") -> Event:
    return Event(1, NOON, subject=subject, dimensions={"origin": origin}, quantities={"miles": miles})


@pytest.fixture
def history() -> History:
    return History({1: "acme"})


# --- two releases at once


@pytest.fixture
def releases(database: TestDatabase, history: History) -> Iterator[tuple[asyncio.Runner, Tables, Tables]]:
    """A loop and two replicas: the older release does not know the kinds of NEW_KINDS, the newer does."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        address = runner.run(stack.enter_async_context(serving(history)))
        dsn = database.app_dsn("aggregate")
        old, new = (runner.run(stack.enter_async_context(Tables(dsn, address))) for _ in range(2))
        runner.run(old.onboard(1, "acme", "UTC"))
        runner.run(old.create_meters())
        runner.run(cache_as_unknown(database, old))
        try:
            yield runner, old, new
        finally:
            runner.run(stack.aclose())


async def cache_as_unknown(database: TestDatabase, old: Tables) -> None:
    """Makes one replica cache the meters while their kinds are unknown."""
    await database.change(MAKE_UNKNOWN, NEW_KINDS)
    await old.handle([History({1: "acme"}).accept([Event(1, NOON, "other")])])
    await database.change(MAKE_KNOWN)


def test_windows_do_not_depend_on_the_folding_release(
    database: TestDatabase, history: History, releases: tuple[asyncio.Runner, Tables, Tables]
) -> None:
    """Events and corrections in any order and batching, with rebuilds by the newer release in between."""
    runner, old, new = releases
    skipped: list[int] = []

    @given(st.integers(0, 2**32), st.sampled_from(ZONES))
    @settings(max_examples=12, deadline=None)
    def check(seed: int, zone: str) -> None:
        runner.run(_check(seed, zone))

    async def _check(seed: int, zone: str) -> None:
        order, number = random.Random(seed), next(_numbers) + 1
        history.reset({number: f"tenant-{number}"}, page_limit=order.choice(PAGE_LIMITS))
        facts = corrected(history, number, order)
        order.shuffle(facts)
        await old.onboard(number, f"tenant-{number}", zone)
        while facts:
            size = order.randint(1, 5)
            await order.choice([old, new]).handle(facts[:size])
            facts = facts[size:]
            skipped.append(database.read("aggregate", SKIPPED)[0][0])
            if order.random() < 0.2:
                await new.rebuild_now()
        await new.rebuild_now()
        # Events folded late may be retractions of events of another month.
        await new.rebuild_now()
        assert database.read("aggregate", SKIPPED) == [(0,)]
        assert pending_rebuilds(database) == 0
        assert stored(database, number) == expected(history.events(), zone)

    check()
    assert any(skipped)


def test_skipped_correction_retracts_only_counted_events(
    database: TestDatabase, history: History, releases: tuple[asyncio.Runner, Tables, Tables]
) -> None:
    """The skipped batch amends an event from before the meter's creation, and retracts a later one."""
    runner, old, new = releases

    async def scenario() -> None:
        await new.handle([history.accept([flight("5"), flight("6", "N2")])])
        late = [meter(f"late.{one.name}", one.aggregation, quantity=one.quantity) for one in METERS[:4]]
        await new.create_meters(late)
        await database.change(MAKE_UNKNOWN, [one.name for one in late])
        await old.handle([history.accept([flight("7", "N3")])])
        before, _, counted = history.left
        await old.handle([history.accept([flight("8", "N4")], [before, counted])])
        await database.change(MAKE_KNOWN)
        await new.create_meters([meter("latest", types_pb2.AGGREGATION_COUNT)])
        await new.rebuild_now()
        found = database.read(
            "aggregate",
            "SELECT m.name, w.event_count, w.value::int FROM windows w JOIN meters m USING (meter_id)"
            " WHERE m.name LIKE 'late.%' AND w.grain = 4 ORDER BY 1",
        )
        assert found == [
            ("late.aircraft", 1, 1),
            ("late.departures", 1, None),
            ("late.longest", 1, 8),
            ("late.miles", 1, 8),
        ]

    runner.run(scenario())


def test_rebuild_waits_for_batches_that_are_being_skipped(
    database: TestDatabase, history: History, releases: tuple[asyncio.Runner, Tables, Tables]
) -> None:
    """Otherwise the last skipped batch would never be counted."""
    runner, old, new = releases

    async def scenario() -> None:
        await old.handle([history.accept([flight("5")])])
        late = Delivery(new_id(), "events.accepted.0", history.accept([flight("6")]).SerializeToString())
        async with old.unit_of_work.begin() as tx:
            await old.accepted.handle(tx, [late])
            rebuild = asyncio.create_task(new.rebuild_now())
            await eventually(lambda: rebuild.done() or database.read("aggregate", WAITING)[0][0])
            await tx.commit()
        await rebuild
        await new.rebuild_now()
        assert database.read("aggregate", SKIPPED) == [(0,)]
        assert stored(database, 1) == expected(history.events(), "UTC")

    runner.run(scenario())


# --- a service


def listed(answer: meters_pb2.ListMetersResponse) -> dict[str, int]:
    return {one.name: one.aggregation for one in answer.meters}


async def test_meter_of_unknown_kind_does_not_block_other_meters(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> None:
    others = {one.name for one in METERS} - set(NEW_KINDS)
    async with serving(history) as address:
        options: dict[str, Any] = {"ingest_address": address, "reconcile_seconds": 3600}
        async with running_aggregate(database, broker, **options) as node:
            await node.create(*METERS)
            await feed.onboard(1, "acme")
            await database.change(MAKE_UNKNOWN, NEW_KINDS)
            # A new meter makes every replica reload the meters.
            await node.create(meter("newest", types_pb2.AGGREGATION_COUNT))
            with capture_logs() as logs:
                await feed.publish(history.accept([flight("5"), flight("900", "N2", "EWR")]))
                await feed.settled()
                await feed.publish(history.accept([flight("7")], [history.left[1]]))
                await feed.settled()
            lines = [line["meter"] for line in logs if line["event"] == "meter.kind_unknown"]
            assert sorted(lines) == sorted(NEW_KINDS)
            (unknown,) = metrics.METERS_UNKNOWN.collect()
            assert unknown.samples[0].value == len(NEW_KINDS)
            assert (await node.windows("acme", "departures", MONTH))[0].value == "2"
            await check_answers(node)
            # Only the newer release rebuilds and publishes meters of new kinds.
            assert await node.service.rebuilder.rebuild_due() == 0
            assert pending_rebuilds(database) == len(NEW_KINDS)
            await node.service.announcer.announce()
            names = "SELECT name FROM changed_months JOIN meters USING (meter_id)"
            assert others.isdisjoint(name for (name,) in database.read("aggregate", names))
        await database.change(MAKE_KNOWN)
        async with running_aggregate(database, broker, **options) as node:
            await rebuilt(database)
            await feed.publish(history.accept([flight("8", "N7")]))
            await feed.settled()
            found = {
                one.name: [(w.value, w.event_count) for w in await node.windows("acme", one.name, MONTH)]
                for one in METERS
            }
            assert found == {
                "departures": [("3", 3)],
                "miles": [("20", 3)],
                "longest": [("8", 3)],
                "aircraft": [("2", 3)],
                "origins": [("1", 3)],
                "jfk": [("3", 3)],
            }
            assert database.read("aggregate", SKIPPED) == [(0,)]
            assert await node.service.announcer.announce() == len(METERS) + 1


async def check_answers(node: Node) -> None:
    """Checks the API's answers for meters of unknown kinds."""
    listing = await node.meters.ListMeters(meters_pb2.ListMetersRequest())
    assert listed(listing)["longest"] == 103
    referred = await node.meters.ReferToMeter(meters_pb2.ReferToMeterRequest(name="longest"))
    assert (referred.meter.aggregation, referred.meter.quantity) == (103, "miles")
    for call, code in (
        (node.windows("acme", "longest", MONTH), grpc.StatusCode.UNAVAILABLE),
        (node.create(meter("new", 105)), grpc.StatusCode.INVALID_ARGUMENT),  # type: ignore[arg-type]
        (node.create(METERS[2]), grpc.StatusCode.ALREADY_EXISTS),
        (
            node.meters.DeleteMeter(meters_pb2.DeleteMeterRequest(name="jfk")),
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
    ):
        with pytest.raises(aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is code
