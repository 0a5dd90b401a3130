"""The consumer and failing handlers: a failed message is stored or retried, and blocks no other message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from meterline.consuming.delivery import Delivery
from meterline.errors import Poison, RetryLater
from meterline.ids import new_id
from meterline.transactions.unit_of_work import Transaction
from meterline_dev.servers import NatsServer

from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import NAME, Node, count, note_effects, noted, notes, publish, replay, settled

pytestmark = [pytest.mark.req("K3", "T3.1")]


class FailingHandler:
    """Handles all notes except those with a failure; records the attempts of each note."""

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
                raise self._failures[note][0]  # the batch fails; then each message is handled alone


async def test_retry_later_redelivers_message_without_blocking_others(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    handler = FailingHandler({"early": [RetryLater("the tenant is not known", delay=0.05)] * 3})
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
async def test_poison_message_is_stored_with_reason_and_blocks_no_other(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    good = [f"good {number}" for number in range(40)]
    handler = FailingHandler({"poison": [Poison("no such event type")] * 100})
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


async def test_other_messages_stay_one_batch_without_named_failures(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    batches: list[list[str]] = []
    all_here = asyncio.Event()

    async def handle(transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        texts = {StringValue.FromString(delivery.data).value: delivery for delivery in deliveries}
        batches.append(sorted(texts))
        if "first" in texts:
            # Waits until all other messages have arrived, so that they form one batch.
            await all_here.wait()
        bad = [delivery.message_id for text, delivery in texts.items() if text.startswith("bad")]
        if bad:
            raise Poison("broken", messages=bad)
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


async def test_unexpected_failure_is_retried(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    handler = FailingHandler({"odd": [ZeroDivisionError("a fault of ours")]})
    await publish(node, "a", "odd", "b")
    consumer = node.consumer(handler)
    await consumer.start()
    await noted(effects_database, ["a", "b", "odd"])
    await settled(broker)
    assert count(effects_database, "dead_letters") == 0
    await consumer.stop()


async def test_poison_message_that_cannot_be_stored_is_retried(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    with psycopg.connect(effects_database.owner_dsn("ingest"), autocommit=True) as owner:
        owner.execute("ALTER TABLE dead_letters RENAME TO mislaid")
        handler = FailingHandler({"poison": [Poison("no such event type")] * 100})
        await publish(node, "poison", "good")
        consumer = node.consumer(handler)
        await consumer.start()
        await noted(effects_database, ["good"])
        owner.execute("ALTER TABLE mislaid RENAME TO dead_letters")
    await settled(broker)
    assert count(effects_database, "dead_letters") == 1
    await consumer.stop()


async def test_message_without_id_is_refused_and_blocks_no_other(
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
async def test_message_copied_from_another_stream_is_refused(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    """JetStream copies messages between streams without checking publish permissions."""
    forged = StringValue(value="forged").SerializeToString()
    headers = {"Nats-Msg-Id": str(new_id()), "Nats-Stream": "OTHER"}
    await node.bus.jetstream().publish("probe.x", forged, headers=headers)
    await publish(node, "good")
    consumer = node.consumer()
    await consumer.start()
    await settled(broker)
    await consumer.stop()
    assert notes(effects_database) == ["good"]
