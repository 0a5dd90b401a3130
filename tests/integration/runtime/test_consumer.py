"""The consumer: every effect once, whatever comes twice, fails, or goes away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from meterline.bus.connection import Bus
from meterline.consuming.consumer import Consumer
from meterline.consuming.delivery import Delivery
from meterline.db.pool import Database
from meterline.transactions.relay import Relay
from meterline.transactions.unit_of_work import Transaction, UnitOfWork
from meterline_dev.servers import NatsServer
from nats.js.api import StreamConfig

from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import (
    NAME,
    PROBE,
    Node,
    OpenNode,
    count,
    end_sessions,
    note_effects,
    noted,
    notes,
    pending,
    publish,
    replay,
    settled,
)

pytestmark = [pytest.mark.req("K3", "T3.1")]


async def test_messages_are_handled_and_acknowledged(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    expected = [str(number) for number in range(200)]
    await publish(node, *expected)
    consumer = node.consumer(max_messages=16)
    await consumer.start()
    await noted(effects_database, expected)
    await settled(broker)
    assert count(effects_database, "inbox") == 200
    await consumer.stop()


# --- the same message again


@pytest.mark.fault
async def test_a_stream_replayed_three_times_changes_nothing(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    expected = [str(number) for number in range(100)]
    await publish(node, *expected)
    consumer = node.consumer()
    await consumer.start()
    await settled(broker)
    await consumer.stop()
    await replay(node, broker, times=3)
    assert notes(effects_database) == sorted(expected)


@pytest.mark.fault
async def test_an_inbox_without_its_key_is_caught_by_the_same_assertion(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    with psycopg.connect(effects_database.owner_dsn("ingest")) as connection:
        connection.execute("ALTER TABLE inbox DROP CONSTRAINT inbox_pkey")
    await publish(node, "once")
    consumer = node.consumer()
    await consumer.start()
    await settled(broker)
    await consumer.stop()
    await replay(node, broker, times=3)
    with pytest.raises(AssertionError):
        assert notes(effects_database) == ["once"]


async def test_doubles_in_one_batch_count_once(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    """Beyond its window of deduplication the broker stores the same id again."""
    jetstream = node.bus.jetstream()
    await jetstream.delete_stream(PROBE.stream)
    await jetstream.add_stream(
        StreamConfig(name=PROBE.stream, subjects=[PROBE.subject], duplicate_window=0.1)
    )
    (envelope,) = await node.emit("double")

    async def publish_again() -> bool:
        ack = await jetstream.publish(
            "probe.x",
            StringValue(value="double").SerializeToString(),
            headers={"Nats-Msg-Id": str(envelope)},
        )
        return not ack.duplicate

    for _ in range(3):
        await eventually(publish_again)
    consumer = node.consumer()
    await consumer.start()
    await settled(broker)
    assert notes(effects_database) == ["double"]
    await consumer.stop()


async def test_two_replicas_share_the_work(
    open_node: OpenNode, broker: NatsServer, effects_database: TestDatabase
) -> None:
    first, second = await open_node(), await open_node()
    expected = [f"{number:03d}" for number in range(300)]
    consumers = [first.consumer(max_messages=4), second.consumer(max_messages=4)]
    await asyncio.gather(*(consumer.start() for consumer in consumers))
    await publish(first, *expected)
    await noted(effects_database, expected)
    await settled(broker)
    await asyncio.gather(*(consumer.stop() for consumer in consumers))


# --- servers that go away


@pytest.mark.fault
async def test_it_is_back_soon_after_the_broker_is(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    await publish(node, "before")
    consumer = node.consumer()
    await consumer.start()
    await noted(effects_database, ["before"])
    await asyncio.to_thread(broker.stop)
    await node.emit("meanwhile")
    await asyncio.to_thread(broker.start)
    await node.relay.start()
    # A pull request that is simply waited for takes 30 s to end.
    await noted(effects_database, ["before", "meanwhile"])
    await settled(broker)
    await consumer.stop()


@pytest.mark.fault
async def test_a_broker_that_lost_its_disk_is_furnished_again(
    own_broker: NatsServer, effects_database: TestDatabase
) -> None:
    database = Database(effects_database.app_dsn("ingest"))
    bus = Bus(own_broker.url, name="test")
    relay = Relay(database, bus)
    node = Node(database, bus, relay, UnitOfWork(database, relay.wake))
    await database.start()
    await bus.start()
    consumer = node.consumer()
    await consumer.start()
    await relay.start()
    await node.emit("before")
    await noted(effects_database, ["before"])

    await asyncio.to_thread(own_broker.kill)
    await asyncio.to_thread(own_broker.wipe)
    await asyncio.to_thread(own_broker.start)
    await node.emit("after")
    await noted(effects_database, ["after", "before"])
    for part in (consumer, relay, bus, database):
        await part.stop()


@pytest.mark.fault
async def test_a_deleted_consumer_is_made_again(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    consumer = node.consumer()
    await consumer.start()
    await node.bus.jetstream().delete_consumer(PROBE.stream, NAME)
    await publish(node, "after")
    await noted(effects_database, ["after"])
    await consumer.stop()


@pytest.mark.fault
async def test_lost_database_sessions_do_not_stop_it(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    handled: list[int] = []

    async def handle(transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        await note_effects(transaction, deliveries)
        handled.append(len(deliveries))
        if len(handled) <= 2:
            await asyncio.to_thread(end_sessions, effects_database)

    expected = [str(number) for number in range(20)]
    await publish(node, *expected)
    consumer = node.consumer(handle)
    await consumer.start()
    await noted(effects_database, expected)
    await settled(broker)
    await consumer.stop()


# --- starting and stopping


async def test_start_and_stop_may_be_called_twice(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    consumer = node.consumer()
    await consumer.stop()
    for note in ("first", "second"):
        await consumer.start()
        await consumer.start()
        await publish(node, note)
        await settled(broker)
        await consumer.stop()
        await consumer.stop()
    await publish(node, "while stopped")
    await eventually(lambda: pending(broker, NAME), until=lambda waiting: waiting == (0, 1))
    assert notes(effects_database) == ["first", "second"]


async def test_stop_finishes_the_batch_in_hand_and_gives_back_the_rest(
    open_node: OpenNode, broker: NatsServer, effects_database: TestDatabase
) -> None:
    """What waited in memory is another replica's at once, and not after the 30 s until redelivery."""
    leaves, stays = await open_node(), await open_node()
    in_hand, finish = asyncio.Event(), asyncio.Event()

    async def handle(transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        in_hand.set()
        await finish.wait()
        await note_effects(transaction, deliveries)

    expected = [str(number) for number in range(10)]
    await publish(leaves, *expected)
    consumer = leaves.consumer(handle, max_messages=5)
    await consumer.start()
    await in_hand.wait()
    await eventually(lambda: pending(broker, NAME), until=lambda waiting: waiting == (10, 0))
    stopping = asyncio.create_task(consumer.stop())
    other: Consumer = stays.consumer()
    await other.start()
    finish.set()
    await stopping
    await noted(effects_database, expected)
    await settled(broker)
    await other.stop()
