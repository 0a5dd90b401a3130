"""Ingest and aggregate together: windows equal the remaining events after any corrections."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline_dev.servers import NatsServer
from meterline_ingest.corrections.corrector import Prepared
from meterline_ingest.corrections.rules.changes import SignedRow
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2 as facts_pb2

from tests.support.aggregate import (
    METERS,
    Event,
    Feed,
    Node,
    expected_usage,
    rebuilt,
    running_aggregate,
    some_events,
)
from tests.support.bus import OpenBus
from tests.support.capture import RunningIngest, running_ingest
from tests.support.corrected import Journal, PublishedMessages, at, put_types
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = [pytest.mark.req("T3.4", "T1.6", "T3.2"), pytest.mark.timeout(300)]

GRAINS = (types_pb2.GRAIN_MINUTE, types_pb2.GRAIN_HOUR, types_pb2.GRAIN_DAY, types_pb2.GRAIN_MONTH)
ZONES = ("America/New_York", "Asia/Kolkata", "UTC")

_numbers = itertools.count(10)


@dataclass
class World:
    """Ingest and aggregate on separate brokers: the test passes messages from one to the other."""

    ingest: RunningIngest
    node: Node
    feed: Feed
    published: PublishedMessages
    database: TestDatabase

    async def onboard(self, zone: str) -> Journal:
        number = next(_numbers)
        slug = f"tenant-{number}"
        await self.ingest.onboard(number, slug)
        await self.feed.onboard(number, slug, zone)
        journal = Journal(self.ingest, number, slug)
        await eventually(journal.corrections.knows_tenant)
        return journal

    async def pass_on(self, facts: Sequence[facts_pb2.EventsAccepted]) -> None:
        """Publishes messages to aggregate, and waits until it has applied them and rebuilt all months."""
        for fact in facts:
            await self.feed.publish(fact)
        await self.feed.settled()
        await rebuilt(self.database)

    async def differences(self, journal: Journal, zone: str) -> Sequence[tuple[str, int, bool]]:
        """(meter, grain, by group) whose windows differ from the remaining events."""
        events = list(journal.left.values())
        found = []
        for meter, grain in itertools.product(METERS, GRAINS):
            for by_group in (False, True) if meter.group_by else (False,):
                used = await self.node.used(journal.slug, meter.name, grain, by_group=by_group)
                wanted = expected_usage(meter, events, zone, grain, by_group=by_group)
                left = {key: value for key, value in used.items() if value[1]}
                emptied = {value for value, events_ in used.values() if not events_}
                if left != wanted or emptied - {Decimal(0)}:
                    found.append((meter.name, grain, by_group))
        return found


@pytest.fixture
async def world(
    make_database: Callable[..., TestDatabase],
    broker: NatsServer,
    own_broker: NatsServer,
    open_bus: OpenBus,
) -> AsyncIterator[World]:
    database = make_database("ingest", "aggregate")
    async with (
        running_ingest(database, broker) as ingest,
        running_aggregate(database, own_broker, ingest_address=ingest.address) as node,
    ):
        await put_types(ingest)
        await node.create(*METERS)
        bus = await open_bus(url=own_broker.url)
        yield World(ingest, node, Feed(bus), await PublishedMessages.of(ingest), database)


def recent(tenant: int, order: random.Random) -> list[Event]:
    """Events recent enough for capture as well as for an import."""
    start = datetime.now(UTC) - timedelta(days=30)
    count, seed = order.randint(5, 40), order.randint(0, 10**6)
    return some_events(tenant, count, seed=seed, start=start, span=timedelta(days=29))


@given(seed=st.integers(0, 2**32), zone=st.sampled_from(ZONES))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_windows_equal_remaining_events_in_any_message_order(
    world: World, seed: int, zone: str
) -> None:
    order = random.Random(seed)
    journal = await world.onboard(zone)
    await journal.at_random(order, recent(journal.tenant, order))

    facts = await world.published.facts(journal.tenant, journal.calls)
    order.shuffle(facts)
    await world.pass_on(facts)

    assert await world.differences(journal, zone) == []
    assert await journal.corrections.total() == len(journal.left)


async def test_missing_retractions_are_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Prepared.rows

    def forgetful(self: Prepared) -> list[SignedRow]:
        every = rows(self)
        return [row for row in every if not row.retracted] or every

    monkeypatch.setattr(Prepared, "rows", forgetful)
    order = random.Random(7)
    journal = await world.onboard("UTC")
    await journal.at_random(order, recent(journal.tenant, order))
    await world.pass_on(await world.published.facts(journal.tenant, journal.calls))

    assert await world.differences(journal, "UTC") != []


# Boundaries of months and days in New York: ends of months and years, a leap day, and clock changes in
# both directions.
EDGES = (
    at(2016, 2, 29, 5),
    at(2016, 3, 1, 5),
    at(2019, 3, 10, 7),
    at(2019, 11, 3, 6),
    at(2020, 1, 1, 5),
    at(2024, 2, 29, 5),
    at(2024, 3, 1, 5),
    at(2024, 3, 10, 7),
    at(2024, 3, 11, 4),
    at(2024, 11, 3, 5),
    at(2024, 11, 4, 5),
    at(2003, 12, 31, 23),
)


@given(seed=st.integers(0, 2**32), edges=st.lists(st.sampled_from(EDGES), min_size=1, max_size=8))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.req("T3.4", "T2.2")
async def test_imported_events_of_any_age_count_in_their_windows(
    world: World, seed: int, edges: list[datetime]
) -> None:
    order, zone = random.Random(seed), "America/New_York"
    journal = await world.onboard(zone)
    events = [
        Event(
            journal.tenant,
            edge + timedelta(microseconds=order.choice([-1, 0, 1, -1_800_000_000, 3_600_000_000])),
            subject=f"N{order.randint(0, 3)}",
            dimensions={"origin": order.choice(["JFK", "EWR"])},
            quantities={"miles": str(order.randint(0, 1000))},
        )
        for edge in edges
        for _ in range(2)
    ]
    await journal.import_events(events)
    for event_id in order.sample(sorted(journal.left), len(edges)):
        moved = order.choice(edges) - timedelta(microseconds=order.choice([0, 1]))
        event = journal.left[event_id]
        after = Event(event.tenant, moved, event.type, event.subject, event.dimensions, event.quantities)
        await journal.amend(event_id, after)

    await world.pass_on(await world.published.facts(journal.tenant, journal.calls))

    assert await world.differences(journal, zone) == []
