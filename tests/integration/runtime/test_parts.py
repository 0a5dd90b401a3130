"""Messages with several independent parts: a bad part affects no other, and can be redriven once fixed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from meterline.consuming.breaker import BurialRules
from meterline.consuming.consumer import Consumer
from meterline.consuming.delivery import Delivery
from meterline.consuming.parts import PART_OF, part_of
from meterline.consuming.redrive import Redriven
from meterline.errors import Poison, RetryLater
from meterline.transactions.unit_of_work import Transaction
from meterline_dev.servers import NatsServer
from prometheus_client import REGISTRY

from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import PROBE, SERVICE, Node, count, notes, unanswered_probes

pytestmark = [pytest.mark.req("K3", "T3.1", "O2"), pytest.mark.fault]

NAME = PROBE.consumer_name(SERVICE)
# Short waits for tests.
RULES = BurialRules(longest_wait_for_parts=0.2, cooldown=0.05, longest_cooldown=0.2)


def split(delivery: Delivery) -> Sequence[Delivery]:
    """Splits a probe message, whose note is a list of words, into one part for each word."""
    words = StringValue.FromString(delivery.data).value.split()
    return [
        part_of(delivery, word.encode(), StringValue(value=word).SerializeToString(), {"Word": word})
        for word in words
    ]


@dataclass
class Words:
    """Stores every word except those of `failures`."""

    failures: dict[str, Exception] = field(default_factory=dict)
    names_messages: bool = True

    async def __call__(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            for word in StringValue.FromString(delivery.data).value.split():
                await transaction.connection.execute(
                    "INSERT INTO effects (message_id, note) VALUES (%s, %s)", (delivery.message_id, word)
                )
                if error := self.failures.get(word):
                    if self.names_messages and isinstance(error, Poison):
                        raise Poison(str(error), [delivery.message_id])
                    raise error


@dataclass
class World:
    node: Node
    broker: NatsServer
    database: TestDatabase
    words: Words = field(default_factory=Words)

    def consumer(self, **options: object) -> Consumer:
        return self.node.consumer(self.words, **{"split": split, "rules": RULES, **options})

    async def publish(self, *messages: str) -> list[uuid.UUID]:
        ids = await self.node.emit(*messages)
        while await self.node.relay.publish_pending():
            continue
        return ids

    async def settled(self) -> None:
        await eventually(
            lambda: unanswered_probes(self.broker, NAME), seconds=30, until=lambda left: left == 0
        )

    async def consume(self, **options: object) -> None:
        """Runs the consumer until every message is acknowledged."""
        consumer = self.consumer(**options)
        await consumer.start()
        await self.settled()
        await consumer.stop()

    async def consume_again(self, **options: object) -> None:
        """Consumes the whole stream again."""
        await self.node.bus.jetstream().delete_consumer(PROBE.stream, NAME)
        await self.consume(**options)

    def letters(self, state: str = "open") -> list[tuple[str, str, int]]:
        """(content, error, attempts), sorted."""
        return sorted(
            (StringValue.FromString(payload).value, error, attempts)
            for payload, error, attempts in self.rows("payload, error, attempts", f"state = '{state}'")
        )

    def rows(self, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.admin_dsn) as connection:
            query = f"SELECT {columns} FROM {SERVICE}.dead_letters WHERE {where}"
            return connection.execute(query).fetchall()

    def noted(self) -> list[str]:
        return notes(self.database)


@pytest.fixture
def world(node: Node, broker: NatsServer, effects_database: TestDatabase) -> World:
    return World(node, broker, effects_database)


def assert_only_bad_part_is_buried(world: World) -> None:
    assert world.noted() == ["a", "b", "c", "d", "e"]
    assert world.letters() == [("bad", "it is bad", 1)]


MESSAGES = ("a", "b bad c", "d e")


@pytest.mark.parametrize("names_messages", [True, False])
async def test_bad_part_does_not_affect_other_parts(world: World, names_messages: bool) -> None:
    world.words = Words({"bad": Poison("it is bad")}, names_messages)
    ids = await world.publish(*MESSAGES)
    await world.consume()
    assert_only_bad_part_is_buried(world)
    ((headers, letter_id),) = world.rows("headers, message_id")
    assert (headers[PART_OF], headers["Word"]) == (str(ids[1]), "bad")
    # A part's id has the time of its message, so that both are in the same partition.
    assert letter_id.version == 7
    assert letter_id.bytes[:6] == ids[1].bytes[:6]
    assert count(world.database, "inbox") == 3


async def test_burying_the_whole_message_is_detected(
    world: World,
) -> None:
    world.words = Words({"bad": Poison("it is bad")})
    await world.publish(*MESSAGES)
    await world.consume(split=None)
    with pytest.raises(AssertionError):
        assert_only_bad_part_is_buried(world)


async def test_each_bad_part_among_many_is_found(world: World) -> None:
    """For every kind of error, with and without the names of the failed parts."""
    bad = [3, 4, 77, 99]
    failures: dict[str, Exception] = {
        f"w{n}": Poison(f"bad {n}") if n % 2 else ZeroDivisionError(f"bad {n}") for n in bad
    }
    world.words = Words(failures, names_messages=False)
    await world.publish(" ".join(f"w{n}" for n in range(100)))
    await world.consume(rules=BurialRules(patience=0.3))
    assert world.noted() == sorted(f"w{n}" for n in range(100) if n not in bad)
    assert [error.partition(";")[0] for _, error, _ in world.letters()] == [f"bad {n}" for n in bad]


# --- redriving and redelivery


async def test_part_is_redriven_once(world: World) -> None:
    world.words = Words({"bad": Poison("it is bad")})
    await world.publish(*MESSAGES)
    await world.consume()
    ((letter_id,),) = world.rows("message_id")
    consumer = world.consumer()
    assert await consumer.redrive(letter_id, requested_by="ann", reason="?") == (
        Redriven.FAILED,
        "it is bad",
    )
    world.words.failures.clear()
    outcomes = await asyncio.gather(
        *(consumer.redrive(letter_id, requested_by="ann", reason="fixed") for _ in range(4))
    )
    assert sorted(outcome for outcome, _ in outcomes) == [Redriven.APPLIED] + [Redriven.SKIPPED] * 3
    await world.consume_again()
    assert world.noted() == ["a", "b", "bad", "c", "d", "e"]
    assert world.letters() == []


@pytest.mark.parametrize("messages", [MESSAGES, ("a", "bad", "b c", "d e")])
async def test_redelivered_message_applies_its_buried_parts_once(
    world: World, messages: Sequence[str]
) -> None:
    world.words = Words({"bad": Poison("it is bad")})
    await world.publish(*messages)
    await world.consume()
    world.words.failures = {"bad": Poison("it is still bad")}
    await world.consume_again()
    assert world.letters() == [("bad", "it is still bad", 2)]
    world.words.failures.clear()
    for _ in range(2):
        await world.consume_again()
        assert world.noted() == ["a", "b", "bad", "c", "d", "e"]
        assert world.letters() == []
        assert world.rows("redriven_by, attempts") == [("replay", 3)]


async def test_consumer_that_skips_redelivered_parts_as_duplicates_is_detected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_open(*_: object) -> dict[uuid.UUID, list[uuid.UUID]]:
        return {}

    monkeypatch.setattr("meterline.consuming.applying.dead_letters.open_of", none_open)
    with pytest.raises(AssertionError):
        await test_redelivered_message_applies_its_buried_parts_once(world, MESSAGES)


async def test_redelivered_content_is_used_instead_of_stored_content(world: World) -> None:
    """The stored part may have been corrupted in transit, or produced by a bug that is now fixed."""
    world.words = Words({"bad": Poison("it is bad")})
    await world.publish("bad", "b bad")
    await world.consume()
    garbled = StringValue(value="garbled").SerializeToString()
    await world.database.change("UPDATE ingest.dead_letters SET payload = %s", garbled)
    world.words.failures.clear()
    await world.consume_again()
    assert world.noted() == ["b", "bad", "bad"]


async def test_redriven_whole_message_is_split_into_parts(world: World) -> None:
    world.words = Words({"bad": Poison("it is bad")})
    (message_id,) = await world.publish("a bad b")
    await world.consume(split=None)
    assert world.noted() == []
    consumer = world.consumer()
    dry = await consumer.redrive(message_id, requested_by="ann", reason="try", dry_run=True)
    assert dry == (Redriven.FAILED, "it is bad")
    assert (world.noted(), world.letters()) == ([], [("a bad b", "it is bad", 1)])
    outcomes = await asyncio.gather(
        *(consumer.redrive(message_id, requested_by="ann", reason="?") for _ in range(4))
    )
    assert (
        Redriven.FAILED,
        "1 of 3 parts stay, as letters of their own: it is bad",
    ) in outcomes
    assert (world.noted(), world.letters()) == (["a", "b"], [("bad", "it is bad", 1)])
    world.words.failures.clear()
    await world.consume_again()
    await world.consume_again()
    assert (world.noted(), world.letters()) == (["a", "b", "bad"], [])


# --- parts to retry later


async def test_part_to_retry_delays_other_parts_only_for_a_limited_time(world: World) -> None:
    world.words = Words({"late": RetryLater("not yet", delay=0.05), "bad": Poison("it is bad")})
    await world.publish("a late b", "c", "d bad late2 e")
    consumer = world.consumer()
    await consumer.start()
    expected = ["a", "b", "c", "d", "e", "late2"]
    await eventually(world.noted, until=lambda found: found == expected)
    world.words.failures.pop("late")
    await world.settled()
    await consumer.stop()
    assert world.noted() == sorted([*expected, "late"])
    assert [content for content, _, _ in world.letters()] == ["bad"]


async def test_short_retry_does_not_split_the_message(world: World) -> None:
    world.words = Words({"late": RetryLater("not yet", delay=0.01)})
    await world.publish("a late b")
    consumer = world.consumer(rules=BurialRules())
    await consumer.start()
    before = outcomes_of("later")
    await eventually(lambda: outcomes_of("later"), until=lambda now: now >= before + 3)
    world.words.failures.clear()
    await world.settled()
    await consumer.stop()
    assert (world.noted(), world.letters("redriven")) == (["a", "b", "late"], [])


async def test_part_that_fails_permanently_becomes_dead_letter(world: World) -> None:
    world.words = Words({"late": RetryLater("not yet", delay=0.05)})
    await world.publish("a late b")
    await world.consume(rules=BurialRules(patience=1.0, longest_wait_for_parts=0.2))
    assert world.noted() == ["a", "b"]
    ((content, error, attempts),) = world.letters()
    assert (content, error) == ("late", "not yet")
    assert attempts > 1


def outcomes_of(outcome: str) -> float:
    labels = {"consumer": NAME, "outcome": outcome}
    return REGISTRY.get_sample_value("meterline_messages_total", labels) or 0.0


# --- the breaker


async def test_messages_with_some_bad_parts_do_not_open_breaker(world: World) -> None:
    world.words = Words({"bad": Poison("it is bad")})
    await world.publish(*["good bad"] * 60)
    held = outcomes_of("held")
    await world.consume()
    assert world.noted() == ["good"] * 60
    assert len(world.letters()) == 60
    assert outcomes_of("held") == held


@pytest.mark.parametrize(
    "error",
    [Poison("a bad release"), ZeroDivisionError("a bad release"), RetryLater("a bad release", delay=0.05)],
)
async def test_release_that_fails_most_parts_buries_few(world: World, error: Exception) -> None:
    rules = BurialRules(
        window=10, percent=60, longest_wait_for_parts=0.2, cooldown=0.05, longest_cooldown=0.2
    )
    bad = ["bad1", "bad2", "bad3"]
    world.words = Words(dict.fromkeys(bad, error), names_messages=False)
    await world.publish(*[" ".join(["good", *bad])] * 12)
    consumer = world.consumer(rules=rules)
    await consumer.start()
    gauge = "meterline_consumer_breaker_open"
    await eventually(lambda: REGISTRY.get_sample_value(gauge, {"consumer": NAME}) == 1, seconds=30)
    assert 0 < len(world.letters()) <= len(bad) * rules.window * rules.percent // 100
    world.words.failures.clear()
    await world.settled()
    await consumer.stop()
    await world.consume_again()
    assert world.noted() == sorted(["good", *bad] * 12)
    assert world.letters() == []
