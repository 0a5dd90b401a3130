"""The consumer: each message has its effect once despite redelivery, failures and restarts."""

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


# --- repeated messages


@pytest.mark.fault
async def test_stream_replay_changes_nothing(
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
async def test_inbox_without_primary_key_is_detected(
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


async def test_duplicates_in_one_batch_are_handled_once(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    """After its deduplication window the broker stores the same id again."""
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


async def test_two_replicas_share_messages(
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


# --- restarts of servers


@pytest.mark.fault
async def test_consumer_resumes_after_broker_restart(
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
    # A pull request that is not cancelled ends only after 30 s.
    await noted(effects_database, ["before", "meanwhile"])
    await settled(broker)
    await consumer.stop()


@pytest.mark.fault
async def test_streams_and_consumer_are_recreated_after_broker_loses_its_disk(
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
async def test_deleted_consumer_is_recreated(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    consumer = node.consumer()
    await consumer.start()
    await node.bus.jetstream().delete_consumer(PROBE.stream, NAME)
    await publish(node, "after")
    await noted(effects_database, ["after"])
    await consumer.stop()


@pytest.mark.fault
async def test_consumer_survives_lost_database_sessions(
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


async def test_stop_finishes_current_batch_and_returns_the_rest(
    open_node: OpenNode, broker: NatsServer, effects_database: TestDatabase
) -> None:
    """Another replica gets prefetched messages immediately, and not after the 30 s until redelivery."""
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
