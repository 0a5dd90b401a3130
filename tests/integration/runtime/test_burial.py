"""Dead letters and the breaker: single poison messages are buried, but never nearly all messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import psycopg
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from meterline.consuming.breaker import BurialRules
from meterline.consuming.delivery import Delivery
from meterline.errors import Poison, RetryLater
from meterline.transactions.unit_of_work import Transaction
from meterline_dev.servers import NatsServer
from prometheus_client import REGISTRY

from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import (
    PROBE,
    SERVICE,
    Node,
    OpenNode,
    count,
    note_effects,
    notes,
    unanswered_probes,
)

pytestmark = [pytest.mark.req("T3.1", "O2"), pytest.mark.fault]

NAME = PROBE.consumer_name(SERVICE)
QUICK = BurialRules(cooldown=0.05, longest_cooldown=0.2)
MOST_BURIED = QUICK.window * QUICK.percent // 100


class Deployed:
    """A handler that refuses notes containing `refuses` while `broken`; records the size of each batch."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.broken = True
        self.batches: list[int] = []
        self.tried = asyncio.Event()

    async def __call__(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        self.batches.append(len(deliveries))
        self.tried.set()
        texts = {one.message_id: StringValue.FromString(one.data).value for one in deliveries}
        bad = [message_id for message_id, text in texts.items() if self.refuses in text]
        if self.broken and bad:
            raise Poison("a bad deploy", bad)
        await note_effects(transaction, deliveries)


def breaker() -> float | None:
    return REGISTRY.get_sample_value("meterline_consumer_breaker_open", {"consumer": NAME})


async def breaker_is(expected: float) -> None:
    await eventually(breaker, until=lambda value: value == expected)


async def settled(broker: NatsServer) -> None:
    await eventually(lambda: unanswered_probes(broker, NAME), seconds=30, until=lambda left: left == 0)


async def publish(node: Node, messages: Sequence[str]) -> None:
    await node.emit(*messages)
    while await node.relay.publish_pending():
        continue


def buried(database: TestDatabase) -> list[str]:
    with psycopg.connect(database.owner_dsn(SERVICE)) as connection:
        rows = connection.execute("SELECT payload FROM dead_letters").fetchall()
    return sorted(StringValue.FromString(payload).value for (payload,) in rows)


ALL = [f"{number:03d}" for number in range(150)]


async def test_bad_deploy_buries_few_messages_and_loses_none(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    deployed = Deployed()
    await publish(node, ALL)
    consumer = node.consumer(deployed, max_messages=16, rules=QUICK)
    await consumer.start()
    await breaker_is(1)
    # The open breaker tries one message at a time, and buries no more.
    tries = len(deployed.batches)
    await eventually(lambda: len(deployed.batches), until=lambda now: now >= tries + 5)
    assert set(deployed.batches[tries:]) == {1}
    assert count(effects_database, "dead_letters") <= MOST_BURIED

    deployed.broken = False
    await settled(broker)
    await breaker_is(0)
    assert len(buried(effects_database)) <= MOST_BURIED
    assert sorted(notes(effects_database) + buried(effects_database)) == ALL
    assert max(deployed.batches[tries:]) > 1, "the closed breaker allows batches again"
    await consumer.stop()


async def test_consumer_without_breaker_is_detected(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    await publish(node, ALL)
    consumer = node.consumer(Deployed(), max_messages=16, rules=BurialRules(percent=100))
    await consumer.start()
    await settled(broker)
    with pytest.raises(AssertionError):
        assert len(buried(effects_database)) <= MOST_BURIED
    await consumer.stop()


async def test_few_poison_messages_are_buried_without_opening_breaker(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    messages = [f"{number:03d}" + (" bad" if number % 7 == 3 else "") for number in range(140)]
    await publish(node, messages)
    stopped = REGISTRY.get_sample_value("meterline_messages_total", {"consumer": NAME, "outcome": "held"})
    consumer = node.consumer(Deployed("bad"), max_messages=16, rules=QUICK)
    await consumer.start()
    await settled(broker)
    assert buried(effects_database) == [text for text in messages if "bad" in text]
    assert notes(effects_database) == [text for text in messages if "bad" not in text]
    assert breaker() == 0
    assert stopped == REGISTRY.get_sample_value(
        "meterline_messages_total", {"consumer": NAME, "outcome": "held"}
    )
    await consumer.stop()


async def test_many_consecutive_poison_messages_do_not_block_good_ones(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    """More poison messages than open the breaker: the first good message that is tried closes it."""
    bad = [f"{number:03d} bad" for number in range(40)]
    good = [f"{number:03d}" for number in range(40, 200)]
    await publish(node, bad + good)
    consumer = node.consumer(Deployed("bad"), max_messages=16, rules=QUICK)
    await consumer.start()
    await settled(broker)
    assert notes(effects_database) == good
    assert buried(effects_database) == bad
    await consumer.stop()


async def test_healthy_replica_handles_messages_returned_by_broken_one(
    open_node: OpenNode, broker: NatsServer, effects_database: TestDatabase
) -> None:
    bad, good = await open_node(), await open_node()
    await publish(bad, ALL)
    rules = BurialRules(cooldown=0.05, longest_cooldown=3600.0)
    stopped = bad.consumer(Deployed(), rules=rules)
    await stopped.start()
    await breaker_is(1)
    healthy = good.consumer()
    await healthy.start()
    await settled(broker)
    assert sorted(notes(effects_database) + buried(effects_database)) == ALL
    assert len(buried(effects_database)) <= MOST_BURIED
    await stopped.stop()
    await healthy.stop()


async def test_consumer_restarts_while_breaker_is_open(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    deployed = Deployed()
    await publish(node, ALL)
    consumer = node.consumer(deployed, rules=BurialRules(cooldown=1.0, longest_cooldown=3600.0))
    await consumer.start()
    await breaker_is(1)
    await consumer.stop()
    deployed.broken = False
    await consumer.start()
    await settled(broker)
    assert sorted(notes(effects_database) + buried(effects_database)) == ALL
    await consumer.stop()


async def test_broker_restart_while_breaker_is_open_loses_nothing(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    deployed = Deployed()
    await publish(node, ALL)
    # The broker misses messages returned while it stops, and redelivers them after `ack_wait`.
    consumer = node.consumer(deployed, rules=QUICK, ack_wait=3.0)
    await consumer.start()
    await breaker_is(1)
    await asyncio.to_thread(broker.stop)
    deployed.tried.clear()
    await asyncio.to_thread(broker.start)
    async with asyncio.timeout(30):
        await deployed.tried.wait()
    deployed.broken = False
    await settled(broker)
    assert sorted(notes(effects_database) + buried(effects_database)) == ALL
    await consumer.stop()


# --- messages that are given up


async def fail_with(error: Exception, transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
    texts = [StringValue.FromString(one.data).value for one in deliveries]
    if "bad" in texts:
        raise error
    await note_effects(transaction, deliveries)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RetryLater("unknown tenants [7]", delay=0.05), "unknown tenants [7]; given up after 0 s"),
        (ZeroDivisionError("a fault of ours"), "a fault of ours; given up after 0 s"),
        (ZeroDivisionError(), "ZeroDivisionError; given up after 0 s"),
    ],
)
async def test_permanently_failing_message_becomes_dead_letter_before_broker_drops_it(
    node: Node, broker: NatsServer, effects_database: TestDatabase, error: Exception, reason: str
) -> None:
    await publish(node, ["a", "bad", "b"])
    consumer = node.consumer(partial(fail_with, error), rules=BurialRules(patience=0.4))
    await consumer.start()
    await settled(broker)
    assert notes(effects_database) == ["a", "b"]
    with psycopg.connect(effects_database.app_dsn(SERVICE)) as connection:
        rows = connection.execute(
            "SELECT error, received_at - uuid_extract_timestamp(message_id) FROM dead_letters"
        ).fetchall()
    await consumer.stop()
    ((found, waited),) = rows
    assert found == reason
    assert waited >= timedelta(seconds=0.4)


async def test_error_text_with_any_content_can_be_stored(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    await publish(node, ["bad"])
    consumer = node.consumer(partial(fail_with, Poison("quantity a\0b: " + "x" * 10_000)))
    await consumer.start()
    await settled(broker)
    with psycopg.connect(effects_database.app_dsn(SERVICE)) as connection:
        ((reason,),) = connection.execute("SELECT error FROM dead_letters").fetchall()
    assert reason == "quantity a\ufffdb: " + "x" * (2_000 - 14)
    await consumer.stop()
