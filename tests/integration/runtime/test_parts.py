"""Messages that carry several independent things: a bad one costs no other, and comes back once mended."""

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
# Nothing waits long in a test.
RULES = BurialRules(longest_wait_for_parts=0.2, cooldown=0.05, longest_cooldown=0.2)


def split(delivery: Delivery) -> Sequence[Delivery]:
    """A probe's note is a list of notes."""
    words = StringValue.FromString(delivery.data).value.split()
    return [
        part_of(delivery, word.encode(), StringValue(value=word).SerializeToString(), {"Word": word})
        for word in words
    ]


@dataclass
class Words:
    """Keeps every word, but not those of `failures`."""

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
        """Until every message has its answer."""
        consumer = self.consumer(**options)
        await consumer.start()
        await self.settled()
        await consumer.stop()

    async def consume_again(self, **options: object) -> None:
        """The whole stream once more."""
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


def only_the_bad_part_is_buried(world: World) -> None:
    assert world.noted() == ["a", "b", "c", "d", "e"]
    assert world.letters() == [("bad", "it is bad", 1)]


MESSAGES = ("a", "b bad c", "d e")


@pytest.mark.parametrize("names_messages", [True, False])
async def test_a_bad_part_costs_none_of_its_neighbours(world: World, names_messages: bool) -> None:
    world.words = Words({"bad": Poison("it is bad")}, names_messages)
    ids = await world.publish(*MESSAGES)
    await world.consume()
    only_the_bad_part_is_buried(world)
    ((headers, letter_id),) = world.rows("headers, message_id")
    assert (headers[PART_OF], headers["Word"]) == (str(ids[1]), "bad")
    # Of the same time as the whole, so that tables by time keep both together.
    assert letter_id.version == 7
    assert letter_id.bytes[:6] == ids[1].bytes[:6]
    assert count(world.database, "inbox") == 3


async def test_a_consumer_that_buries_the_whole_message_is_caught_by_the_same_assertions(
    world: World,
) -> None:
    world.words = Words({"bad": Poison("it is bad")})
    await world.publish(*MESSAGES)
    await world.consume(split=None)
    with pytest.raises(AssertionError):
        only_the_bad_part_is_buried(world)


async def test_of_many_parts_each_bad_one_is_found(world: World) -> None:
    """Whatever the failures name, and whatever the handler raises."""
    bad = [3, 4, 77, 99]
    failures: dict[str, Exception] = {
        f"w{n}": Poison(f"bad {n}") if n % 2 else ZeroDivisionError(f"bad {n}") for n in bad
    }
    world.words = Words(failures, names_messages=False)
    await world.publish(" ".join(f"w{n}" for n in range(100)))
    await world.consume(rules=BurialRules(patience=0.3))
    assert world.noted() == sorted(f"w{n}" for n in range(100) if n not in bad)
    assert [error.partition(";")[0] for _, error, _ in world.letters()] == [f"bad {n}" for n in bad]


# --- brought back


async def test_a_part_is_redriven_once(world: World) -> None:
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
        *(consumer.redrive(letter_id, requested_by="ann", reason="mended") for _ in range(4))
    )
    assert sorted(outcome for outcome, _ in outcomes) == [Redriven.APPLIED] + [Redriven.SKIPPED] * 3
    await world.consume_again()
    assert world.noted() == ["a", "b", "bad", "c", "d", "e"]
    assert world.letters() == []


@pytest.mark.parametrize("messages", [MESSAGES, ("a", "bad", "b c", "d e")])
async def test_a_message_that_comes_again_brings_back_what_was_buried_of_it_once(
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


async def test_one_that_takes_what_comes_again_for_a_duplicate_is_caught(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_open(*_: object) -> dict[uuid.UUID, list[uuid.UUID]]:
        return {}

    monkeypatch.setattr("meterline.consuming.applying.dead_letters.open_of", none_open)
    with pytest.raises(AssertionError):
        await test_a_message_that_comes_again_brings_back_what_was_buried_of_it_once(world, MESSAGES)


async def test_what_comes_again_is_taken_and_not_what_was_kept(world: World) -> None:
    """It may have been garbled on its way, or made by what has been mended since."""
    world.words = Words({"bad": Poison("it is bad")})
    await world.publish("bad", "b bad")
    await world.consume()
    garbled = StringValue(value="garbled").SerializeToString()
    await world.database.change("UPDATE ingest.dead_letters SET payload = %s", garbled)
    world.words.failures.clear()
    await world.consume_again()
    assert world.noted() == ["b", "bad", "bad"]


async def test_a_whole_message_that_was_buried_is_taken_apart_when_it_is_redriven(world: World) -> None:
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


# --- what has to wait


async def test_a_part_that_has_to_wait_holds_up_the_others_for_a_while_only(world: World) -> None:
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


async def test_a_short_wait_takes_nothing_apart(world: World) -> None:
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


async def test_a_part_that_waits_for_ever_is_given_up(world: World) -> None:
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


async def test_messages_with_some_bad_parts_do_not_open_the_breaker(world: World) -> None:
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
async def test_a_release_that_can_apply_nearly_no_part_buries_few(world: World, error: Exception) -> None:
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
