"""The consumer: every effect once, whatever comes twice, fails, or goes away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from meterline.bus.connection import Bus
from meterline.bus.consumer import Consumer, Delivery
from meterline.db.pool import Database
from meterline.db.unit_of_work import Transaction, UnitOfWork
from meterline.errors import Later, Never
from meterline.ids import new_id
from meterline.outbox.relay import Relay
from meterline_dev.servers import NatsServer
from nats.js.api import StreamConfig

from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import (
    PROBE,
    Node,
    OpenNode,
    count,
    end_sessions,
    note_effects,
    notes,
    pending,
    unanswered_probes,
)

pytestmark = [pytest.mark.req("K3", "T3.1")]

NAME = PROBE.consumer_name("ingest")


async def noted(database: TestDatabase, expected: Sequence[str], seconds: float = 60.0) -> None:
    """Waits until as many effects as expected are there; they are the expected ones, each once."""
    await eventually(lambda: notes(database), seconds=seconds, until=lambda seen: len(seen) >= len(expected))
    assert notes(database) == sorted(expected)


async def settled(broker: NatsServer) -> None:
    """Waits until the broker has an answer to every message that it has."""
    await eventually(lambda: unanswered_probes(broker, NAME), until=lambda left: left == 0)


async def publish(node: Node, *messages: str) -> None:
    """Messages straight to the broker, through a relay that runs once."""
    await node.emit(*messages)
    while await node.relay.publish_pending():
        continue


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


async def replay(node: Node, broker: NatsServer, times: int) -> None:
    """Delivers the whole stream again and again, as if the broker had forgotten every ack."""
    for _ in range(times):
        await node.bus.jetstream().delete_consumer(PROBE.stream, NAME)
        consumer = node.consumer()
        await consumer.start()
        await settled(broker)
        await consumer.stop()


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


# --- failures that have a name


class Choosy:
    """Handles everything but the notes it has a failure for; counts the attempts at each note."""

    def __init__(self, failures: dict[str, list[Exception]]) -> None:
        self._failures = failures
        self.attempts: dict[str, list[int]] = {}

    async def __call__(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        await note_effects(transaction, deliveries)
        for delivery in deliveries:
            note = StringValue.FromString(delivery.data).value
            self.attempts.setdefault(note, []).append(delivery.attempt)
            if len(deliveries) == 1 and self._failures.get(note):
                raise self._failures[note].pop(0)
            if self._failures.get(note):
                raise self._failures[note][0]  # the batch fails; then each goes alone


async def test_later_means_again_and_holds_up_no_other(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    handler = Choosy({"early": [Later("the tenant is not known", delay=0.05)] * 3})
    await publish(node, "a", "early", "b")
    consumer = node.consumer(handler)
    await consumer.start()
    await noted(effects_database, ["a", "b", "early"])
    await settled(broker)
    assert max(handler.attempts["early"]) == 4
    assert set(handler.attempts["a"] + handler.attempts["b"]) == {1}
    assert count(effects_database, "dead_letters") == 0
    await consumer.stop()


@pytest.mark.fault
async def test_a_poison_message_is_kept_with_its_reason_and_holds_up_no_other(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    good = [f"good {number}" for number in range(40)]
    handler = Choosy({"poison": [Never("no such event type")] * 100})
    await publish(node, *good[:20], "poison", *good[20:])
    consumer = node.consumer(handler)
    await consumer.start()
    await noted(effects_database, good)
    await settled(broker)
    assert {attempt for attempts in handler.attempts.values() for attempt in attempts} == {1}
    with psycopg.connect(effects_database.app_dsn("ingest")) as connection:
        rows = connection.execute("SELECT consumer, subject, payload, error FROM dead_letters").fetchall()
    payload = StringValue(value="poison").SerializeToString()
    assert rows == [(NAME, "probe.x", payload, "no such event type")]
    await consumer.stop()
    await replay(node, broker, times=1)
    assert count(effects_database, "dead_letters") == 1


async def test_messages_that_a_failure_names_leave_the_others_one_batch(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    batches: list[list[str]] = []
    all_here = asyncio.Event()

    async def handle(transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        texts = {StringValue.FromString(delivery.data).value: delivery for delivery in deliveries}
        batches.append(sorted(texts))
        if "first" in texts:
            # Meanwhile the others gather, however the broker divides them.
            await all_here.wait()
        bad = [delivery.message_id for text, delivery in texts.items() if text.startswith("bad")]
        if bad:
            raise Never("broken", messages=bad)
        await note_effects(transaction, deliveries)

    consumer = node.consumer(handle)
    await consumer.start()
    await publish(node, "first")
    await eventually(lambda: batches)
    await publish(node, "a", "bad 1", "b", "bad 2", "c")
    await eventually(lambda: consumer._pull._queue.qsize() == 5)
    all_here.set()
    await noted(effects_database, ["a", "b", "c", "first"])
    await settled(broker)
    assert batches == [["first"], ["a", "b", "bad 1", "bad 2", "c"], ["a", "b", "c"]]
    assert count(effects_database, "dead_letters") == 2
    await consumer.stop()


async def test_an_unforeseen_failure_comes_again(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    handler = Choosy({"odd": [ZeroDivisionError("a fault of ours")]})
    await publish(node, "a", "odd", "b")
    consumer = node.consumer(handler)
    await consumer.start()
    await noted(effects_database, ["a", "b", "odd"])
    await settled(broker)
    assert count(effects_database, "dead_letters") == 0
    await consumer.stop()


async def test_a_poison_message_that_cannot_be_kept_comes_again(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    with psycopg.connect(effects_database.owner_dsn("ingest"), autocommit=True) as owner:
        owner.execute("ALTER TABLE dead_letters RENAME TO mislaid")
        handler = Choosy({"poison": [Never("no such event type")] * 100})
        await publish(node, "poison", "good")
        consumer = node.consumer(handler)
        await consumer.start()
        await noted(effects_database, ["good"])
        owner.execute("ALTER TABLE mislaid RENAME TO dead_letters")
    await settled(broker)
    assert count(effects_database, "dead_letters") == 1
    await consumer.stop()


async def test_a_message_without_an_id_is_refused_and_holds_up_no_other(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    await node.bus.jetstream().publish("probe.x", b"", headers={"Nats-Msg-Id": "not a uuid"})
    await node.bus.jetstream().publish("probe.x", b"")
    await publish(node, "good")
    consumer = node.consumer()
    await consumer.start()
    await noted(effects_database, ["good"])
    await settled(broker)
    await consumer.stop()


@pytest.mark.req("T4.1")
async def test_a_message_copied_from_another_stream_is_refused(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    """JetStream copies between streams without checking who may publish."""
    forged = StringValue(value="forged").SerializeToString()
    headers = {"Nats-Msg-Id": str(new_id()), "Nats-Stream": "OTHER"}
    await node.bus.jetstream().publish("probe.x", forged, headers=headers)
    await publish(node, "good")
    consumer = node.consumer()
    await consumer.start()
    await settled(broker)
    await consumer.stop()
    assert notes(effects_database) == ["good"]


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
