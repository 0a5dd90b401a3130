"""Limits of groups: further groups count in the total and in the rest, and all values stay exact."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline import migrate
from meterline_dev.servers import NatsServer
from meterline_protos.aggregate.v1 import meters_pb2, usage_pb2
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2
from prometheus_client import REGISTRY

from tests.support.aggregate import (
    Event,
    Feed,
    Node,
    accepted,
    expected_usage,
    meter,
    rebuilt,
    running_aggregate,
)
from tests.support.aggregate_tables import Tables
from tests.support.databases import TestDatabase
from tests.support.raw_events import History, serving

pytestmark = pytest.mark.req("T6.1", "T2.4")

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
MONTH = types_pb2.GRAIN_MONTH
FLIGHTS = meter("flights", types_pb2.AGGREGATION_COUNT, group_by=["origin"])
MILES = meter("miles", types_pb2.AGGREGATION_SUM, quantity="miles", group_by=["origin"])
LONGEST = meter("longest", types_pb2.AGGREGATION_MAX, quantity="miles", group_by=["origin"])
AIRCRAFT = meter("aircraft", types_pb2.AGGREGATION_UNIQUE, group_by=["cabin", "origin"])
ALL = (FLIGHTS, MILES, LONGEST, AIRCRAFT)


def flight(origin: str, miles: int = 1, cabin: str = "Y") -> Event:
    dimensions = {"origin": origin, "cabin": cabin}
    return Event(1, NOON, dimensions=dimensions, quantities={"miles": str(miles)})


def values(windows: Sequence[usage_pb2.Window], name: str = "origin") -> dict[tuple[str, bool], str]:
    """The value of each group, by (value of its dimension, whether it is the rest)."""
    found = {(window.group[name], window.rest): window.value for window in windows}
    assert len(found) == len(windows)
    return found


async def by_origin(node: Node, name: str) -> dict[tuple[str, bool], str]:
    return values(await node.windows("acme", name, MONTH, by_group=True))


async def total(node: Node, name: str) -> str:
    (window,) = await node.windows("acme", name, MONTH)
    assert not window.rest
    return window.value


def groups(database: TestDatabase) -> int:
    (row,) = database.read("aggregate", "SELECT count(*) FROM dimension_groups WHERE NOT rest")
    return int(row[0])


async def publish(feed: Feed, *facts: events_pb2.EventsAccepted) -> None:
    for fact in facts:
        await feed.publish(fact)
    await feed.settled()


@pytest.mark.req("T3.4")
async def test_groups_beyond_the_limit_count_as_the_rest(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    history = History({1: "acme"})
    async with serving(history) as address:
        chosen: dict[str, Any] = {"ingest_address": address, "reconcile_seconds": 3600.0}
        async with running_aggregate(database, broker, max_groups=3, **chosen) as node:
            await node.create(FLIGHTS, MILES, LONGEST)
            await feed.onboard(1, "acme")
            # One message each, so that the order is known. One value looks like the name of the rest.
            for at, origin in enumerate(["JFK", "(other)", "SFO", *"ABCDEFG"], start=1):
                await publish(feed, history.accept([flight(origin, at)] * 2))
            assert await by_origin(node, "flights") == {
                ("JFK", False): "2",
                ("(other)", False): "2",
                ("SFO", False): "2",
                ("(other)", True): "14",
            }
            # Meters with the same dimensions have the same groups.
            assert await by_origin(node, "miles") == {
                ("JFK", False): "2",
                ("(other)", False): "4",
                ("SFO", False): "6",
                ("(other)", True): "98",
            }
            assert (await by_origin(node, "longest"))["(other)", True] == "10"
            assert (await total(node, "flights"), await total(node, "miles")) == ("20", "110")
        # After a restart with a higher limit, events and retractions still count in the same groups.
        async with running_aggregate(database, broker, max_groups=100, **chosen) as node:
            greatest = [kept for kept in history.left if kept.event.dimensions["origin"] in ("G", "SFO")]
            await publish(feed, history.accept([flight("JFK"), flight("B"), flight("new")], greatest))
            await rebuilt(database)
            assert await by_origin(node, "flights") == {
                ("JFK", False): "3",
                ("(other)", False): "2",
                ("SFO", False): "0",
                ("(other)", True): "14",
            }
            assert (await by_origin(node, "miles"))["(other)", True] == "80"
            assert (await by_origin(node, "longest"))["(other)", True] == "9"
            assert (await total(node, "flights"), await total(node, "miles")) == ("19", "87")
            assert groups(database) == 3


@pytest.mark.req("O9")
async def test_concurrent_replicas_keep_group_limit(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    async with (
        running_aggregate(database, broker, max_groups=3, batch_messages=2) as node,
        running_aggregate(database, broker, max_groups=3, batch_messages=2),
    ):
        await node.create(FLIGHTS, AIRCRAFT)
        await feed.onboard(1, "acme")
        await feed.onboard(2, "globex")
        # Each message has both tenants and both sets of dimensions.
        for at in range(60):
            event = flight(f"O{at % 10}", cabin=str(at % 7))
            await feed.publish(accepted([replace(event, tenant=1 + (at + n) % 2) for n in (0, 1)]))
        await feed.settled()
        for slug in ("acme", "globex"):
            windows = await node.windows(slug, "flights", MONTH, by_group=True)
            assert sorted(window.rest for window in windows) == [False, False, False, True]
            assert sum(int(window.value) for window in windows) == 60
            (whole,) = await node.windows(slug, "flights", MONTH)
            assert whole.value == "60"
            cabins = await node.windows(slug, "aircraft", MONTH, by_group=True)
            assert sorted(window.rest for window in cabins) == [False, False, False, True]
            assert sum(window.event_count for window in cabins) == 60
    held = database.read("aggregate", "SELECT held, rest_group_id IS NULL FROM group_sets")
    assert held == [(3, False)] * 4


@pytest.mark.req("T3.4")
async def test_preview_creates_no_group(database: TestDatabase, broker: NatsServer, feed: Feed) -> None:
    async with running_aggregate(database, broker, max_groups=2) as node:
        await node.create(FLIGHTS)
        await feed.onboard(1, "acme")
        await publish(feed, accepted([flight("JFK")]))
        previewed = accepted([flight(origin) for origin in ("X", "Y", "Z")])
        request = usage_pb2.PreviewChangesRequest(tenant_id="acme", events=previewed.SerializeToString())
        found = (await node.usage.PreviewChanges(request)).windows
        assert {(window.value_before, window.value_after) for window in found} == {("1", "4")}
        assert groups(database) == 1
        await publish(feed, accepted([flight("SFO")]))
        assert await by_origin(node, "flights") == {("JFK", False): "1", ("SFO", False): "1"}


@pytest.mark.req("X2")
async def test_metrics_report_group_usage(database: TestDatabase, broker: NatsServer, feed: Feed) -> None:
    def reported() -> tuple[float | None, float | None]:
        return (
            REGISTRY.get_sample_value("meterline_quota_fullest_ratio", {"quota": "groups"}),
            REGISTRY.get_sample_value("meterline_group_sets_closed"),
        )

    async with running_aggregate(database, broker, max_groups=4) as node:
        await node.create(FLIGHTS)
        await feed.onboard(1, "acme")
        await publish(feed, accepted([flight("JFK")]))
        await node.service.groups.look()
        assert reported() == (0.25, 0)
        await publish(feed, accepted([flight(origin) for origin in "ABCD"]))
        await node.service.groups.look()
        assert reported() == (1, 1)


ADD = "INSERT INTO aggregate.dimension_groups (tenant_id, digest, dimensions) VALUES (1, %s, %s)"
ODD_VALUES = ('{"b": "x\\" , \\"c\\": \\"y", "a": "\\\\"}', '{"a": "\\u0000", "b": ""}', '{"a": ""}')


def test_migration_counts_existing_groups(empty_database: TestDatabase) -> None:
    dsn = empty_database.owner_dsn("aggregate")
    whole = migrate.for_service("aggregate")
    before = [one for one in whole if one.package != "meterline_aggregate" or one.number < 6]
    migrate.apply(dsn, "aggregate", before)
    with psycopg.connect(empty_database.admin_dsn, autocommit=True) as connection:
        for at, value in enumerate(ODD_VALUES):
            connection.execute(ADD, (f"{at:032}", value))
        migrate.apply(dsn, "aggregate", whole)
        rows = connection.execute("SELECT names, held FROM aggregate.group_sets ORDER BY 1").fetchall()
    assert rows == [("a", 1), ("a,b", 2)]


def test_previous_release_cannot_exceed_group_limit(database: TestDatabase) -> None:
    """During an update the previous release adds groups without a check: triggers count and limit them."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as connection:
        for at, value in enumerate(ODD_VALUES):
            connection.execute(ADD, (f"{at:032}", value))
        rows = connection.execute("SELECT names, held FROM aggregate.group_sets ORDER BY 1").fetchall()
        assert rows == [("a", 1), ("a,b", 2)]
        connection.execute("UPDATE aggregate.group_sets SET rest_group_id = 1 WHERE names = 'a'")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(ADD, (f"{9:032}", '{"a": "z"}'))
        connection.execute(ADD, (f"{8:032}", '{"a": "z", "b": "z"}'))


# --- independence of order

MOST = 3
REST = "the rest"
_numbers = itertools.count(100)


class FirstSeen:
    """A plain implementation of the rule: of each set, the first `MOST` combinations get groups."""

    def __init__(self) -> None:
        self._own: dict[tuple[str, ...], list[tuple[str, ...]]] = {}

    def see(self, fact: events_pb2.EventsAccepted) -> None:
        for series in fact.series:
            dimensions = {dimension.name: dimension.value for dimension in series.dimensions}
            for names in {tuple(sorted(one.group_by)) for one in ALL}:
                own = self._own.setdefault(names, [])
                values = tuple(dimensions.get(name, "") for name in names)
                if values not in own and len(own) < MOST:
                    own.append(values)

    def shown(self, one: meters_pb2.Meter, event: Event) -> Event:
        """The event with the dimensions of the group in which it counts."""
        names = tuple(sorted(one.group_by))
        if tuple(event.dimensions.get(name, "") for name in names) in self._own.get(names, ()):
            return event
        return replace(event, dimensions=dict(event.dimensions) | dict.fromkeys(names, REST))


def random_event(number: int, order: random.Random) -> Event:
    dimensions = {"origin": order.choice("ABCDEF"), "cabin": order.choice("xy")}
    if order.random() < 0.2:
        del dimensions[order.choice(["origin", "cabin"])]
    moment = NOON + timedelta(days=order.randint(-20, 20))
    subject = f"N{order.randint(0, 4)}"
    return Event(number, moment, "flight", subject, dimensions, {"miles": str(order.randint(0, 9))})


def stored_groups(database: TestDatabase, number: int) -> dict[tuple[object, ...], tuple[Decimal, int]]:
    rows = database.read(
        "aggregate",
        "SELECT m.name, w.grain, w.window_start, g.dimensions, g.rest, w.event_count,"
        " coalesce(w.value, CASE m.aggregation WHEN 1 THEN w.event_count ELSE 0 END)"
        " FROM windows w JOIN meters m USING (meter_id)"
        " LEFT JOIN dimension_groups g USING (tenant_id, group_id) WHERE w.tenant_id = %s",
        number,
    )
    found: dict[tuple[object, ...], tuple[Decimal, int]] = {}
    for name, grain, start, dimensions, rest, count, value in rows:
        if count:
            given: Mapping[str, str] = dict.fromkeys(dimensions, REST) if rest else dimensions or {}
            found[name, grain, start, tuple(sorted(given.items()))] = (value, count)
    return found


@pytest.mark.req("T3.4", "T1.6", "T3.2")
def test_groups_are_given_by_first_appearance_in_any_order(database: TestDatabase) -> None:
    """Two replicas fold and rebuild events, amendments and retractions, in any order and batching."""
    history = History({})
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        address = runner.run(stack.enter_async_context(serving(history)))
        dsn = database.app_dsn("aggregate")
        nodes = [
            runner.run(stack.enter_async_context(Tables(dsn, address, max_groups=MOST))) for _ in range(2)
        ]
        runner.run(nodes[0].create_meters(ALL))

        @given(st.integers(0, 2**32))
        @settings(max_examples=12, deadline=None)
        def check(seed: int) -> None:
            runner.run(_check(database, nodes, history, random.Random(seed)))

        try:
            check()
        finally:
            runner.run(stack.aclose())


async def _check(
    database: TestDatabase, nodes: Sequence[Tables], history: History, order: random.Random
) -> None:
    number = next(_numbers)
    history.reset({number: f"tenant-{number}"}, page_limit=1_000)
    await nodes[0].onboard(number, f"tenant-{number}", "UTC")
    facts = [
        history.accept([random_event(number, order) for _ in range(order.randint(1, 6))])
        for _ in range(order.randint(1, 8))
    ]
    for _ in range(order.randint(0, 6)):
        retracted = order.sample(history.left, min(len(history.left), order.randint(1, 3)))
        added = [random_event(number, order) for _ in retracted if order.random() < 0.5]
        facts.append(history.accept(added, retracted))
    order.shuffle(facts)
    oracle = FirstSeen()
    while facts:
        size = order.randint(1, 4)
        for fact in facts[:size]:
            oracle.see(fact)
        await order.choice(nodes).handle(facts[:size])
        facts = facts[size:]
    await order.choice(nodes).rebuild_now()
    expected = {}
    for one in ALL:
        shown = [oracle.shown(one, event) for event in history.events()]
        for grain in (1, 2, 3, 4):
            for by_group in (False, True):
                usage = expected_usage(one, shown, "UTC", grain, by_group=by_group)  # type: ignore[arg-type]
                for (start, group), numbers in usage.items():
                    expected[one.name, grain, start, group] = numbers
    assert stored_groups(database, number) == expected


@pytest.mark.req("O9")
def test_transactions_with_the_same_sets_do_not_deadlock(
    database: TestDatabase,
) -> None:
    async def run() -> None:
        history = History({})
        dsn = database.app_dsn("aggregate")
        async with (
            serving(history) as address,
            Tables(dsn, address, max_groups=MOST) as one,
            Tables(dsn, address, max_groups=MOST) as other,
        ):
            await one.create_meters((FLIGHTS, AIRCRAFT))
            for number in (1, 2, 3):
                await one.onboard(number, f"tenant-{number}", "UTC")
            for at in range(10):
                facts = [
                    accepted([replace(flight(f"{at}-{n}"), tenant=number)])
                    for n, number in enumerate((1, 2, 3))
                ]
                await asyncio.gather(one.handle(facts), other.handle(facts[::-1]))

    asyncio.run(run())
    assert database.read("aggregate", "SELECT DISTINCT held, rest_group_id IS NULL FROM group_sets") == [
        (MOST, False)
    ]
