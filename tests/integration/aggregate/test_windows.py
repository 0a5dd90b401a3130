"""Messages from JetStream become windows, whose values over gRPC are exact."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from meterline.bus.subjects import TENANTS_CHANGED
from meterline.ids import new_id
from meterline_aggregate.folding.consumer import AcceptedEvents
from meterline_dev.servers import NatsServer
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1.events_pb2 import EventsAccepted, TenantChanged
from prometheus_client import REGISTRY

from tests.support.aggregate import (
    CONSUMER,
    METERS,
    Event,
    Feed,
    Node,
    accepted,
    expected_usage,
    meter,
    running_aggregate,
    some_events,
)
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("K3", "T2.2", "T6.1")

GRAINS = (
    types_pb2.GRAIN_MINUTE,
    types_pb2.GRAIN_HOUR,
    types_pb2.GRAIN_DAY,
    types_pb2.GRAIN_MONTH,
)

ZONES = {1: ("acme", "America/New_York"), 2: ("globex", "Asia/Kolkata")}

# New York's clocks change and a month ends in this time.
START = datetime(2026, 10, 30, 5, tzinfo=UTC)
SPAN = timedelta(days=4)


def events_of_both(count: int, seed: int = 7) -> list[Event]:
    found = [
        event
        for tenant in ZONES
        for event in some_events(tenant, count, seed=seed + tenant, start=START, span=SPAN)
    ]
    random.Random(seed).shuffle(found)
    return found


async def start_with_all(node: Node, feed: Feed) -> None:
    await node.create(*METERS)
    for number, (slug, zone) in ZONES.items():
        await feed.onboard(number, slug, zone)


async def publish_in_parts(feed: Feed, events: Sequence[Event], rows: int) -> None:
    """Publishes messages of two batches, each message with `rows` events."""
    for begin in range(0, len(events), rows):
        part = events[begin : begin + rows]
        await feed.publish(accepted(part[: rows // 3], part[rows // 3 :]))


async def check_all(node: Node, events: Sequence[Event]) -> None:
    for number, (slug, zone) in ZONES.items():
        own = [event for event in events if event.tenant == number]
        for one in METERS:
            for grain in GRAINS:
                for by_group in (False, True) if one.group_by else (False,):
                    expected = expected_usage(one, own, zone, grain, by_group=by_group)
                    assert expected, "nothing to compare"
                    found = await node.used(slug, one.name, grain, by_group=by_group)
                    assert found == expected, (slug, one.name, grain, by_group)


def totals(database: TestDatabase) -> dict[int, int]:
    return dict(database.read("aggregate", "SELECT tenant_id, aggregated FROM tenant_totals"))


@pytest.mark.req("T3.2", "X2")
async def test_all_windows_are_exact(node: Node, feed: Feed, database: TestDatabase) -> None:
    events = events_of_both(200)
    await start_with_all(node, feed)
    await publish_in_parts(feed, events, 50)
    await feed.settled()
    await check_all(node, events)
    assert totals(database) == {1: 200, 2: 200}


@pytest.mark.req("T1.6", "T3.1")
async def test_redelivery_in_any_batching_changes_nothing(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    events = events_of_both(60)
    async with running_aggregate(database, broker) as node:
        await start_with_all(node, feed)
        await publish_in_parts(feed, events, 24)
        await feed.settled()
        await check_all(node, events)
    for batch_messages in (1, 3, 64):
        await feed.forget_deliveries()
        async with running_aggregate(database, broker, batch_messages=batch_messages) as node:
            await feed.settled()
            await check_all(node, events)
    assert totals(database) == {1: 60, 2: 60}


@pytest.mark.req("T2.1", "O9")
async def test_replicas_share_the_work(
    database: TestDatabase, broker: NatsServer, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: dict[int, int] = {}
    handle = AcceptedEvents.handle

    async def counted(self: AcceptedEvents, transaction: object, deliveries: Sequence[object]) -> None:
        handled[id(self)] = handled.get(id(self), 0) + len(deliveries)
        await handle(self, transaction, deliveries)  # type: ignore[arg-type]

    monkeypatch.setattr(AcceptedEvents, "handle", counted)
    events = events_of_both(200)
    async with (
        running_aggregate(database, broker, batch_messages=2) as one,
        running_aggregate(database, broker, batch_messages=2) as other,
    ):
        await start_with_all(one, feed)
        await publish_in_parts(feed, events, 5)
        await feed.settled()
        await check_all(other, events)
    assert len(handled) == 2
    assert min(handled.values()) > 5
    assert totals(database) == {1: 200, 2: 200}


@pytest.mark.req("T1.6")
async def test_events_of_an_unknown_tenant_wait_without_delaying_others(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    events = events_of_both(100)
    late = [event for event in events if event.tenant == 2]
    early = [event for event in events if event.tenant == 1]
    await node.create(*METERS)
    await feed.onboard(1, *ZONES[1])
    await feed.publish(accepted(late))
    await publish_in_parts(feed, early, 10)
    await eventually(lambda: totals(database), until=lambda found: found == {1: 100})
    await feed.onboard(2, *ZONES[2])
    await feed.settled()
    await check_all(node, events)
    assert dead_letters(database) == []


@pytest.mark.req("T1.6")
async def test_waiting_messages_are_set_aside_and_others_share_transactions(
    database: TestDatabase, broker: NatsServer, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[int] = []
    handle = AcceptedEvents.handle

    async def recorded(self: AcceptedEvents, transaction: object, deliveries: Sequence[object]) -> None:
        await handle(self, transaction, deliveries)  # type: ignore[arg-type]
        applied.append(len(deliveries))

    monkeypatch.setattr(AcceptedEvents, "handle", recorded)
    async with running_aggregate(database, broker, batch_messages=20) as node:
        await start_with_all(node, feed)
    for number in (1, 2, 3, 4, 1, 2, 3, 4, 1, 2):
        await feed.publish(accepted([Event(number, START)]))
    async with running_aggregate(database, broker, batch_messages=20):
        await eventually(lambda: totals(database), until=lambda found: found == {1: 3, 2: 3})
        for number in (3, 4):
            await feed.onboard(number, f"late-{number}")
        await feed.settled()
    assert totals(database) == {1: 3, 2: 3, 3: 2, 4: 2}
    # Every delivery contained a waiting message, but the others still shared transactions.
    assert sum(applied) == 10
    assert max(applied) > 1


@pytest.mark.req("T3.1")
async def test_garbled_messages_become_dead_letters_without_delaying_others(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    events = events_of_both(50)
    await start_with_all(node, feed)
    bad = accepted(events[:10])
    bad.times_us = bad.times_us[:-1]
    garbled = {await feed.publish(b"\xff\xff"), await feed.publish(bad)}
    await publish_in_parts(feed, events, 10)
    garbled.add(await feed.publish(b"\xff\xff\xff"))
    await feed.settled()
    await check_all(node, events)
    rows = dead_letters(database)
    assert {message_id for message_id, _ in rows} == garbled
    reasons = {error.partition(":")[0] for _, error in rows}
    assert reasons == {"not an EventsAccepted", "times_us is not of 10 rows"}


@pytest.mark.req("T3.1")
async def test_invalid_tenant_facts_become_dead_letters_without_delaying_others(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    jetstream = feed.bus.jetstream()
    wrong = [
        TenantChanged(tenant_id=7, slug="a\0b"),
        TenantChanged(tenant_id=7, slug="a", plan="\0"),
        TenantChanged(tenant_id=-7, slug="a"),
        TenantChanged(tenant_id=7, slug="a", billed_from="soon"),
        TenantChanged(tenant_id=7, slug="a", close_lead_seconds=1 << 62),
        TenantChanged(tenant_id=7, slug="a", changed_at=Timestamp(seconds=1 << 62)),
        EventsAccepted(base_us=7),
    ]
    for data in (b"\xff\xff", b"", *(fact.SerializeToString() for fact in wrong)):
        headers = {"Nats-Msg-Id": str(new_id())}
        await jetstream.publish(TENANTS_CHANGED.subject, data, headers=headers)
    await start_with_all(node, feed)
    events = events_of_both(20)
    await feed.publish(accepted(events))
    await feed.settled()
    await check_all(node, events)
    reasons = await eventually(lambda: dead_letters(database), until=lambda found: len(found) == 9)
    assert {error.partition(":")[0] for _, error in reasons} == {"not a TenantChanged"}


def dead_letters(database: TestDatabase) -> list[tuple[uuid.UUID, str]]:
    return database.read("aggregate", "SELECT message_id, error FROM dead_letters")


@pytest.mark.req("T3.1", "X2")
async def test_message_repeated_under_another_id_is_a_duplicate(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    """The inbox keeps ids for some days; applied batches are recorded forever, metered or not."""
    events = events_of_both(50)
    fact = accepted(events[:30], events[30:])
    unmetered = accepted([Event(1, START, type="unheard of")] * 3)
    await start_with_all(node, feed)
    for one in (fact, unmetered):
        await feed.publish(one)
    await feed.settled()
    counted = duplicates()
    # First a copy alone, then copies among new messages, one of them twice.
    await feed.publish(fact)
    await feed.settled()
    more = events_of_both(20, seed=8)
    for one in (unmetered, accepted(more), fact, unmetered):
        await feed.publish(one)
    await feed.settled()
    await check_all(node, events + more)
    assert totals(database) == {1: 73, 2: 70}
    assert dead_letters(database) == []
    assert duplicates() == counted + 4


def duplicates() -> float:
    labels = {"consumer": CONSUMER, "outcome": "duplicate"}
    return REGISTRY.get_sample_value("meterline_messages_total", labels) or 0.0


@pytest.mark.req("T3.1", "X2")
@pytest.mark.parametrize("kind", ["flight", "unheard of"])
async def test_copies_in_one_delivery_count_once(
    database: TestDatabase, broker: NatsServer, feed: Feed, kind: str
) -> None:
    async with running_aggregate(database, broker) as node:
        await start_with_all(node, feed)
    fact = accepted([Event(1, START, type=kind)] * 50)
    for _ in range(5):
        await feed.publish(fact)
    async with running_aggregate(database, broker) as node:
        await feed.settled()
        windows = await node.windows("acme", "departures", types_pb2.GRAIN_MONTH)
    assert sum(window.event_count for window in windows) == (50 if kind == "flight" else 0)
    assert totals(database) == {1: 50}
    assert dead_letters(database) == []


@pytest.mark.req("T3.1")
async def test_repeated_batch_among_others_is_a_duplicate_and_others_count(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    """Ingest sends no such message, but neither applying nor dropping all of it would be right."""
    events, more = events_of_both(50), events_of_both(20, seed=8)
    batch_ids = [new_id(), new_id()]
    await start_with_all(node, feed)
    await feed.publish(accepted(events, batch_ids=batch_ids[:1]))
    await feed.settled()
    await feed.publish(accepted(events, more, batch_ids=batch_ids))
    await feed.settled()
    await check_all(node, events + more)
    assert totals(database) == {1: 70, 2: 70}
    assert dead_letters(database) == []


async def test_sums_beyond_64_bits_are_exact(node: Node, feed: Feed) -> None:
    await node.create(meter("sum", types_pb2.AGGREGATION_SUM, quantity="q"))
    await feed.onboard(1, "acme")
    value = Decimal("999999.999999999")
    event = Event(1, START, quantities={"q": str(value)})
    for _ in range(12):
        await feed.publish(accepted([event] * 2000, scale=9))
    # The sum then needs a larger scale in the same column.
    await feed.publish(accepted([Event(1, START, quantities={"q": "-0.5"})], scale=18))
    await feed.settled()
    (window,) = await node.windows("acme", "sum", types_pb2.GRAIN_MONTH)
    assert Decimal(window.value) == value * 24_000 - Decimal("0.5")
    assert window.event_count == 24_001


async def test_meter_created_by_another_replica_counts_at_once(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    async with running_aggregate(database, broker) as folding:
        await folding.create(meter("first", types_pb2.AGGREGATION_COUNT))
        await feed.onboard(1, "acme")
        await feed.publish(accepted([Event(1, START)]))
        await feed.settled()
        with psycopg.connect(database.app_dsn("aggregate")) as connection:
            connection.execute(
                "INSERT INTO meters (name, event_type, aggregation, quantity, unique_dimension, group_by,"
                " filter) VALUES ('second', 'flight', 1, '', '', '{}', '{}')"
            )
        await feed.publish(accepted([Event(1, START)]))
        await feed.settled()
        first = await folding.used("acme", "first", types_pb2.GRAIN_DAY)
        second = await folding.used("acme", "second", types_pb2.GRAIN_DAY)
    assert [count for _, count in first.values()] == [2]
    assert [count for _, count in second.values()] == [1]
