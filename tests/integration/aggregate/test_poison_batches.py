"""An invalid batch does not affect the other batches of its message, and can be recovered.

Each batch holds the events of one call to ingest.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from meterline.bounds import EARLIEST_US, LATEST_US, MAX_SCALE
from meterline.bus.subjects import EVENTS_ACCEPTED
from meterline.ids import new_id
from meterline_aggregate.folding import consumer
from meterline_aggregate.folding.decoding import GarbledError, decode
from meterline_dev.servers import NatsServer
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1.events_pb2 import EventsAccepted
from meterline_protos.operations.v1 import dead_letters_pb2

from tests.support.aggregate import (
    CONSUMER,
    METERS,
    Event,
    Feed,
    Node,
    accepted,
    expected_usage,
    running_aggregate,
)
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = [pytest.mark.req("K3", "T3.1", "T1.6", "O2"), pytest.mark.fault]

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
VICTIM, CULPRIT = 1, 2
ZONES = {VICTIM: ("acme", "America/New_York"), CULPRIT: ("globex", "Asia/Kolkata")}
UNKNOWN_TENANT = 77


def events(tenant: int, count: int, hour: int = 0) -> list[Event]:
    """Some events, all within one hour; of two types, one of which no meter counts."""
    return [
        Event(
            tenant,
            NOON + timedelta(hours=hour, seconds=n),
            "flight" if n % 3 else "other",
            f"N{n % 4}",
            {"origin": "JFK"} if n % 2 else {},
            {"miles": f"{n}.5"},
        )
        for n in range(count)
    ]


# The events of the invalid batch, between those of two valid ones.
BEFORE, INVALID, AFTER = events(VICTIM, 5), events(CULPRIT, 4, 1), events(VICTIM, 3, 2)
ROWS = range(5, 9)


def set_time(fact: EventsAccepted, us: int) -> None:
    times = bytearray(fact.times_us)
    times[ROWS[1] * 8 : ROWS[2] * 8] = us.to_bytes(8, "little", signed=True)
    fact.times_us = bytes(times)


def add_column(fact: EventsAccepted, name: str, scale: int) -> None:
    present = bytes(row in ROWS for row in range(12))
    fact.quantities.add(name=name, scale=scale, units=bytes(12), present=present)


def point_beyond(fact: EventsAccepted, column: str) -> None:
    index = bytearray(getattr(fact, column))
    index[ROWS[0] * 4 : ROWS[1] * 4] = (1_000).to_bytes(4, "little")
    setattr(fact, column, bytes(index))


def forget_tenant(fact: EventsAccepted) -> None:
    for series in fact.series:
        if series.tenant_id == CULPRIT:
            series.tenant_id = 0


Corruption = Callable[[EventsAccepted], None]

# The reason with which the batch becomes a dead letter, and how the message is corrupted.
CORRUPTIONS: list[tuple[str, Corruption]] = [
    ("a time is out of range", lambda fact: set_time(fact, EARLIEST_US - 1)),
    ("a time is out of range", lambda fact: set_time(fact, LATEST_US)),
    ("a time is out of range", lambda fact: set_time(fact, -(1 << 62))),
    (f"quantity x: scale above {MAX_SCALE}", lambda fact: add_column(fact, "x", MAX_SCALE + 1)),
    ("a quantity occurs twice", lambda fact: add_column(fact, "miles", 1)),
    ("series_index points beyond its dictionary", lambda fact: point_beyond(fact, "series_index")),
    ("subject_index points beyond its dictionary", lambda fact: point_beyond(fact, "subject_index")),
    ("a series has no tenant", forget_tenant),
    ("a batch retracts more rows than it has", lambda fact: setattr(fact.batches[1], "retracted", 5)),
    ("origins is not of 16 bytes a retracted row", lambda fact: setattr(fact.batches[1], "origins", b"x")),
]


async def prepare(node: Node, feed: Feed) -> None:
    await node.create(*METERS)
    for number, (slug, zone) in ZONES.items():
        await feed.onboard(number, slug, zone)


async def counts_exactly(
    node: Node, database: TestDatabase, expected: Sequence[Event], tenants: Sequence[int] = tuple(ZONES)
) -> bool:
    """Whether all windows and the number of folded events equal those of `expected`."""
    for number in tenants:
        slug, zone = ZONES[number]
        own = [event for event in expected if event.tenant == number]
        for one in METERS:
            for grain in (types_pb2.GRAIN_HOUR, types_pb2.GRAIN_MONTH):
                found = await node.used(slug, one.name, grain)
                if found != expected_usage(one, own, zone, grain, by_group=False):
                    return False
        if totals(database).get(number, 0) != len(own):
            return False
    return True


def totals(database: TestDatabase) -> dict[int, int]:
    return dict(database.read("aggregate", "SELECT tenant_id, aggregated FROM tenant_totals"))


def dead_letters_of(database: TestDatabase, state: str = "open") -> list[tuple[uuid.UUID, str, bytes]]:
    """(id, reason, payload) of each dead letter in this state."""
    return database.read(
        "aggregate", "SELECT message_id, error, payload FROM dead_letters WHERE state = %s", state
    )


async def redrive_all(node: Node) -> list[str]:
    """Redrives all dead letters; returns the outcome of each."""
    request = dead_letters_pb2.RedriveDeadLettersRequest(all=True, requested_by="ann", reason="fixed")
    answer = await node.dead_letters.RedriveDeadLetters(request)
    return [dead_letters_pb2.RedriveOutcome.Name(result.outcome) for result in answer.results]


class FailingDecoder:
    """A decoder that refuses messages with a batch of `refused`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: set[bytes] = set()
        monkeypatch.setattr(consumer, "decode", self._decode)

    def _decode(self, data: bytes) -> Any:
        found = decode(data)
        if self.refused & {batch.batch_id for batch in found.batches}:
            raise GarbledError("not understood")
        return found


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> FailingDecoder:
    return FailingDecoder(monkeypatch)


# --- kinds of invalid batches


@pytest.mark.parametrize(("reason", "corrupt"), CORRUPTIONS)
async def test_invalid_batch_becomes_a_dead_letter_and_others_count(
    node: Node, feed: Feed, database: TestDatabase, reason: str, corrupt: Corruption
) -> None:
    await prepare(node, feed)
    fact = accepted(BEFORE, INVALID, AFTER)
    corrupt(fact)
    await feed.publish(fact)
    await feed.publish(accepted(events(VICTIM, 2, 5)))
    await feed.settled()
    assert await counts_exactly(node, database, [*BEFORE, *AFTER, *events(VICTIM, 2, 5)])
    ((_, error, payload),) = dead_letters_of(database)
    assert error == reason
    kept = EventsAccepted.FromString(payload)
    assert [batch.batch_id for batch in kept.batches] == [fact.batches[1].batch_id]
    assert len(kept.event_ids) == 16 * len(INVALID)
    assert {series.tenant_id for series in kept.series} <= {CULPRIT, 0}


async def test_unused_series_and_mixed_scales_invalidate_no_batch(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    """The whole message cannot be decoded, but each of its batches can."""
    await prepare(node, feed)
    fact = accepted(BEFORE, INVALID, AFTER)
    fact.series.add(tenant_id=0, event_type="none")
    (miles,) = fact.quantities
    miles.present = bytes(row not in ROWS for row in range(12))
    units = [int(Decimal(event.quantities["miles"]).scaleb(1)) for event in [*BEFORE, *INVALID, *AFTER]]
    fact.quantities.add(
        name="miles",
        scale=1,
        units=b"".join(each.to_bytes(8, "little") for each in units),
        present=bytes(row in ROWS for row in range(12)),
    )
    await feed.publish(fact)
    await feed.settled()
    assert await counts_exactly(node, database, [*BEFORE, *INVALID, *AFTER])
    assert dead_letters_of(database) == []


async def test_undecodable_message_waits_while_all_batches_wait_for_tenants(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    """The message arrives before its tenants, and cannot be decoded as a whole: its batches are retried."""
    await node.create(*METERS)
    fact = accepted(BEFORE, INVALID, AFTER)
    fact.series.add(tenant_id=0, event_type="none")
    await feed.publish(fact)

    async def tried() -> bool:
        consumer = await feed.bus.client.jsm().consumer_info(EVENTS_ACCEPTED.stream, CONSUMER)
        return bool(consumer.num_redelivered) or dead_letters_of(database) != []

    await eventually(tried)
    for number, (slug, zone) in ZONES.items():
        await feed.onboard(number, slug, zone)
    await feed.settled()
    assert dead_letters_of(database) == []
    assert await counts_exactly(node, database, [*BEFORE, *INVALID, *AFTER])


@pytest.mark.parametrize("name", ["times_us", "series_index", "event_ids"])
async def test_message_that_cannot_be_split_becomes_one_dead_letter(
    node: Node, feed: Feed, database: TestDatabase, name: str
) -> None:
    await prepare(node, feed)
    fact = accepted(BEFORE, INVALID, AFTER)
    setattr(fact, name, getattr(fact, name)[:-1])
    message_id = await feed.publish(fact)
    await feed.settled()
    assert [(each, payload) for each, _, payload in dead_letters_of(database)] == [
        (message_id, fact.SerializeToString())
    ]
    assert totals(database) == {}


async def test_repeated_batch_alone_becomes_a_dead_letter(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    await prepare(node, feed)
    ids = [new_id() for _ in range(3)]
    await feed.publish(accepted(INVALID, events(VICTIM, 2, 5), batch_ids=[ids[1], new_id()]))
    await feed.settled()
    await feed.publish(accepted(BEFORE, INVALID, AFTER, batch_ids=ids))
    await feed.settled()
    assert await counts_exactly(node, database, [*BEFORE, *INVALID, *AFTER, *events(VICTIM, 2, 5)])
    ((_, error, _),) = dead_letters_of(database)
    assert error.startswith("a batch was applied before")


async def test_unknown_tenant_delays_only_its_batch(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    async with running_aggregate(database, broker, message_patience_seconds=2.0) as node:
        await prepare(node, feed)
        await feed.publish(accepted(BEFORE, [Event(UNKNOWN_TENANT, NOON)] * 2, AFTER))
        await feed.settled()
        assert await counts_exactly(node, database, [*BEFORE, *AFTER])
        assert [error.partition(";")[0] for _, error, _ in dead_letters_of(database)] == [
            f"unknown tenants [{UNKNOWN_TENANT}]"
        ]


# --- recovery


async def recover_by_redrive(node: Node, feed: Feed, fact: EventsAccepted, message_id: uuid.UUID) -> None:
    assert set(await redrive_all(node)) <= {"REDRIVE_OUTCOME_APPLIED"}


async def recover_by_replay(node: Node, feed: Feed, fact: EventsAccepted, message_id: uuid.UUID) -> None:
    await feed.publish_again(fact, message_id)
    await feed.settled()


async def recover_by_copy(node: Node, feed: Feed, fact: EventsAccepted, message_id: uuid.UUID) -> None:
    """Publishes the same batches under another message id, which the inbox does not know."""
    await feed.publish(fact)
    await feed.settled()


WAYS = [recover_by_redrive, recover_by_replay, recover_by_copy]


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
async def test_dead_letter_recovered_in_two_ways_counts_once(
    node: Node, feed: Feed, database: TestDatabase, decoder: FailingDecoder, first: Any, second: Any
) -> None:
    await prepare(node, feed)
    fact = accepted(BEFORE, INVALID, AFTER)
    decoder.refused = {fact.batches[1].batch_id}
    message_id = await feed.publish(fact)
    await feed.settled()
    assert await counts_exactly(node, database, [*BEFORE, *AFTER])
    # Before the fix no way recovers the batch, and none changes the counts.
    assert await redrive_all(node) == ["REDRIVE_OUTCOME_FAILED"]
    await recover_by_replay(node, feed, fact, message_id)
    await recover_by_copy(node, feed, fact, message_id)
    assert await counts_exactly(node, database, [*BEFORE, *AFTER])
    decoder.refused = set()
    for way in (first, second):
        await way(node, feed, fact, message_id)
        assert await counts_exactly(node, database, [*BEFORE, *INVALID, *AFTER]), way.__name__
    # Remaining dead letters were applied already, and are resolved.
    await redrive_all(node)
    assert dead_letters_of(database) == []
    assert await counts_exactly(node, database, [*BEFORE, *INVALID, *AFTER])


async def test_message_with_applied_batches_is_not_applied_again(
    database: TestDatabase, broker: NatsServer, feed: Feed, decoder: FailingDecoder
) -> None:
    """Not even after the fix, when the inbox has no record of the message."""
    fact = accepted(BEFORE, INVALID, AFTER)
    decoder.refused = {fact.batches[1].batch_id}
    async with running_aggregate(database, broker) as node:
        await prepare(node, feed)
        await feed.publish(fact)
        await feed.settled()
    decoder.refused = set()
    for _ in range(2):
        await database.change("DELETE FROM aggregate.inbox")
        await feed.forget_deliveries()
        async with running_aggregate(database, broker) as node:
            await feed.settled()
            assert await counts_exactly(node, database, [*BEFORE, *INVALID, *AFTER])


async def test_redriven_batch_of_an_applied_message_is_a_duplicate(
    node: Node, feed: Feed, database: TestDatabase, decoder: FailingDecoder
) -> None:
    """The message was a dead letter under one id, and was applied as a whole under another."""
    await prepare(node, feed)
    # Of events that no meter counts, only the message id is stored.
    unmetered = [Event(VICTIM, NOON, "other")] * 3
    fact = accepted(BEFORE, INVALID, unmetered)
    decoder.refused = {batch.batch_id for batch in fact.batches}
    await feed.publish(fact)
    await feed.settled()
    assert len(dead_letters_of(database)) == 1, "one dead letter holds the whole message"
    decoder.refused = set()
    await feed.publish(fact)
    await feed.settled()
    decoder.refused = {fact.batches[1].batch_id}
    assert await redrive_all(node) == ["REDRIVE_OUTCOME_FAILED"]
    decoder.refused = set()
    assert await redrive_all(node) == ["REDRIVE_OUTCOME_APPLIED"]
    assert dead_letters_of(database) == []
    assert await counts_exactly(node, database, [*BEFORE, *INVALID, *unmetered])


async def test_correction_and_corrected_batch_fail_independently(
    node: Node, feed: Feed, database: TestDatabase, decoder: FailingDecoder
) -> None:
    """The batch with the rows is a dead letter, and its correction is applied first."""
    await prepare(node, feed)
    ids = [new_id(), new_id()]
    retracted = INVALID[:2]
    fact = accepted(INVALID, retracted, batch_ids=ids, origins=[[], [ids[0]] * 2])
    decoder.refused = {ids[0].bytes}
    await feed.publish(fact)
    await feed.settled()
    assert len(dead_letters_of(database)) == 1
    decoder.refused = set()
    assert await redrive_all(node) == ["REDRIVE_OUTCOME_APPLIED"]
    assert totals(database) == {CULPRIT: 2}
    counted = await node.used("globex", "departures", types_pb2.GRAIN_MONTH)
    assert [number for _, number in counted.values()] == [sum(e.type == "flight" for e in INVALID[2:])]


# --- planted bugs


async def test_dead_letter_of_the_whole_message_is_caught(
    database: TestDatabase, broker: NatsServer, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterline_aggregate.main.split", lambda _: ())
    async with running_aggregate(database, broker) as node:
        with pytest.raises(AssertionError):
            await test_invalid_batch_becomes_a_dead_letter_and_others_count(
                node, feed, database, *CORRUPTIONS[0]
            )
