"""A call that cannot be counted costs no other call of the same message, and can be brought back."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
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
STRANGER = 77


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


# The rows of the batch that is spoilt, between those of two others.
BEFORE, SPOILT, AFTER = events(VICTIM, 5), events(CULPRIT, 4, 1), events(VICTIM, 3, 2)
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


Spoiler = Callable[[EventsAccepted], None]

# What is wrong with the batch, and the reason that it is buried with.
SPOILERS: list[tuple[str, Spoiler]] = [
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
    """Whether every window, and the number of events that were folded, is that of `expected`."""
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


def letters(database: TestDatabase, state: str = "open") -> list[tuple[uuid.UUID, str, bytes]]:
    """(id, reason, payload)."""
    with psycopg.connect(database.admin_dsn) as connection:
        return connection.execute(
            "SELECT message_id, error, payload FROM aggregate.dead_letters WHERE state = %s", (state,)
        ).fetchall()


async def redrive_all(node: Node) -> list[str]:
    """The outcome of each letter."""
    request = dead_letters_pb2.RedriveDeadLettersRequest(all=True, requested_by="ann", reason="mended")
    answer = await node.dead_letters.RedriveDeadLetters(request)
    return [dead_letters_pb2.RedriveOutcome.Name(result.outcome) for result in answer.results]


class Judge:
    """Decoding, which refuses what has some batch in it until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: set[bytes] = set()
        monkeypatch.setattr(consumer, "decode", self._decode)

    def _decode(self, data: bytes) -> Any:
        found = decode(data)
        if self.refused & {batch.batch_id for batch in found.batches}:
            raise GarbledError("not understood")
        return found


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    return Judge(monkeypatch)


# --- the kinds of poison


@pytest.mark.parametrize(("reason", "spoil"), SPOILERS)
async def test_a_spoilt_batch_is_buried_and_its_neighbours_count(
    node: Node, feed: Feed, database: TestDatabase, reason: str, spoil: Spoiler
) -> None:
    await prepare(node, feed)
    fact = accepted(BEFORE, SPOILT, AFTER)
    spoil(fact)
    await feed.publish(fact)
    await feed.publish(accepted(events(VICTIM, 2, 5)))
    await feed.settled()
    assert await counts_exactly(node, database, [*BEFORE, *AFTER, *events(VICTIM, 2, 5)])
    ((_, error, payload),) = letters(database)
    assert error == reason
    kept = EventsAccepted.FromString(payload)
    assert [batch.batch_id for batch in kept.batches] == [fact.batches[1].batch_id]
    assert len(kept.event_ids) == 16 * len(SPOILT)
    assert {series.tenant_id for series in kept.series} <= {CULPRIT, 0}


async def test_a_series_that_no_row_has_and_two_scales_of_a_name_spoil_no_batch(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    """The message cannot be read as it is, and each of its batches can."""
    await prepare(node, feed)
    fact = accepted(BEFORE, SPOILT, AFTER)
    fact.series.add(tenant_id=0, event_type="none")
    (miles,) = fact.quantities
    miles.present = bytes(row not in ROWS for row in range(12))
    units = [int(Decimal(event.quantities["miles"]).scaleb(1)) for event in [*BEFORE, *SPOILT, *AFTER]]
    fact.quantities.add(
        name="miles",
        scale=1,
        units=b"".join(each.to_bytes(8, "little") for each in units),
        present=bytes(row in ROWS for row in range(12)),
    )
    await feed.publish(fact)
    await feed.settled()
    assert await counts_exactly(node, database, [*BEFORE, *SPOILT, *AFTER])
    assert letters(database) == []


async def test_a_message_whose_batches_all_have_to_wait_is_not_buried_for_what_is_wrong_with_the_whole(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    """It came before its tenants: each batch waits for them, though the message cannot be read at all."""
    await node.create(*METERS)
    fact = accepted(BEFORE, SPOILT, AFTER)
    fact.series.add(tenant_id=0, event_type="none")
    await feed.publish(fact)

    async def tried() -> bool:
        consumer = await feed.bus.client.jsm().consumer_info(EVENTS_ACCEPTED.stream, CONSUMER)
        return bool(consumer.num_redelivered) or letters(database) != []

    await eventually(tried)
    for number, (slug, zone) in ZONES.items():
        await feed.onboard(number, slug, zone)
    await feed.settled()
    assert letters(database) == []
    assert await counts_exactly(node, database, [*BEFORE, *SPOILT, *AFTER])


@pytest.mark.parametrize("name", ["times_us", "series_index", "event_ids"])
async def test_a_message_whose_batches_cannot_be_told_apart_is_buried_whole(
    node: Node, feed: Feed, database: TestDatabase, name: str
) -> None:
    await prepare(node, feed)
    fact = accepted(BEFORE, SPOILT, AFTER)
    setattr(fact, name, getattr(fact, name)[:-1])
    message_id = await feed.publish(fact)
    await feed.settled()
    assert [(each, payload) for each, _, payload in letters(database)] == [
        (message_id, fact.SerializeToString())
    ]
    assert totals(database) == {}


async def test_a_batch_that_was_applied_among_others_is_the_only_one_that_is_buried(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    await prepare(node, feed)
    ids = [new_id() for _ in range(3)]
    await feed.publish(accepted(SPOILT, events(VICTIM, 2, 5), batch_ids=[ids[1], new_id()]))
    await feed.settled()
    await feed.publish(accepted(BEFORE, SPOILT, AFTER, batch_ids=ids))
    await feed.settled()
    assert await counts_exactly(node, database, [*BEFORE, *SPOILT, *AFTER, *events(VICTIM, 2, 5)])
    ((_, error, _),) = letters(database)
    assert error.startswith("a batch was applied before")


async def test_a_tenant_that_is_not_known_holds_up_its_own_batch_only(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    async with running_aggregate(database, broker, message_patience_seconds=2.0) as node:
        await prepare(node, feed)
        await feed.publish(accepted(BEFORE, [Event(STRANGER, NOON)] * 2, AFTER))
        await feed.settled()
        assert await counts_exactly(node, database, [*BEFORE, *AFTER])
        assert [error.partition(";")[0] for _, error, _ in letters(database)] == [
            f"unknown tenants [{STRANGER}]"
        ]


# --- brought back


async def brought_back_by_redrive(
    node: Node, feed: Feed, fact: EventsAccepted, message_id: uuid.UUID
) -> None:
    assert set(await redrive_all(node)) <= {"REDRIVE_OUTCOME_APPLIED"}


async def brought_back_by_replay(node: Node, feed: Feed, fact: EventsAccepted, message_id: uuid.UUID) -> None:
    await feed.publish_again(fact, message_id)
    await feed.settled()


async def brought_back_by_a_copy(node: Node, feed: Feed, fact: EventsAccepted, message_id: uuid.UUID) -> None:
    """The same batches under another id, as if the inbox had forgotten the first."""
    await feed.publish(fact)
    await feed.settled()


WAYS = [brought_back_by_redrive, brought_back_by_replay, brought_back_by_a_copy]


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
async def test_what_was_buried_is_brought_back_once_in_any_two_ways(
    node: Node, feed: Feed, database: TestDatabase, judge: Judge, first: Any, second: Any
) -> None:
    await prepare(node, feed)
    fact = accepted(BEFORE, SPOILT, AFTER)
    judge.refused = {fact.batches[1].batch_id}
    message_id = await feed.publish(fact)
    await feed.settled()
    assert await counts_exactly(node, database, [*BEFORE, *AFTER])
    # None of it helps before it is mended, nor does any harm.
    assert await redrive_all(node) == ["REDRIVE_OUTCOME_FAILED"]
    await brought_back_by_replay(node, feed, fact, message_id)
    await brought_back_by_a_copy(node, feed, fact, message_id)
    assert await counts_exactly(node, database, [*BEFORE, *AFTER])
    judge.refused = set()
    for way in (first, second):
        await way(node, feed, fact, message_id)
        assert await counts_exactly(node, database, [*BEFORE, *SPOILT, *AFTER]), way.__name__
    # Whatever is still open is known to have been applied.
    await redrive_all(node)
    assert letters(database) == []
    assert await counts_exactly(node, database, [*BEFORE, *SPOILT, *AFTER])


async def test_a_message_of_which_batches_were_applied_never_counts_as_a_whole(
    database: TestDatabase, broker: NatsServer, feed: Feed, judge: Judge
) -> None:
    """Not even when the inbox has forgotten it and nothing is wrong with it any more."""
    fact = accepted(BEFORE, SPOILT, AFTER)
    judge.refused = {fact.batches[1].batch_id}
    async with running_aggregate(database, broker) as node:
        await prepare(node, feed)
        await feed.publish(fact)
        await feed.settled()
    judge.refused = set()
    for _ in range(2):
        await database.change("DELETE FROM aggregate.inbox")
        await feed.forget_deliveries()
        async with running_aggregate(database, broker) as node:
            await feed.settled()
            assert await counts_exactly(node, database, [*BEFORE, *SPOILT, *AFTER])


async def test_a_batch_of_a_message_that_was_applied_as_a_whole_is_a_copy(
    node: Node, feed: Feed, database: TestDatabase, judge: Judge
) -> None:
    """The parts come after the whole: it was buried under one id, and applied under another."""
    await prepare(node, feed)
    # Of events that no meter counts nothing but their message is remembered.
    unmetered = [Event(VICTIM, NOON, "other")] * 3
    fact = accepted(BEFORE, SPOILT, unmetered)
    judge.refused = {batch.batch_id for batch in fact.batches}
    await feed.publish(fact)
    await feed.settled()
    assert len(letters(database)) == 1, "all are bad, so it is kept whole"
    judge.refused = set()
    await feed.publish(fact)
    await feed.settled()
    judge.refused = {fact.batches[1].batch_id}
    assert await redrive_all(node) == ["REDRIVE_OUTCOME_FAILED"]
    judge.refused = set()
    assert await redrive_all(node) == ["REDRIVE_OUTCOME_APPLIED"]
    assert letters(database) == []
    assert await counts_exactly(node, database, [*BEFORE, *SPOILT, *unmetered])


async def test_a_correction_and_the_batch_that_it_corrects_fail_apart(
    node: Node, feed: Feed, database: TestDatabase, judge: Judge
) -> None:
    """The batch that brought the rows is buried, and the one that takes them away is applied before it."""
    await prepare(node, feed)
    ids = [new_id(), new_id()]
    gone = SPOILT[:2]
    fact = accepted(SPOILT, gone, batch_ids=ids, origins=[[], [ids[0]] * 2])
    judge.refused = {ids[0].bytes}
    await feed.publish(fact)
    await feed.settled()
    assert len(letters(database)) == 1
    judge.refused = set()
    assert await redrive_all(node) == ["REDRIVE_OUTCOME_APPLIED"]
    assert totals(database) == {CULPRIT: 2}
    counted = await node.used("globex", "departures", types_pb2.GRAIN_MONTH)
    assert [number for _, number in counted.values()] == [sum(e.type == "flight" for e in SPOILT[2:])]


# --- planted


async def test_burying_the_whole_message_is_caught(
    database: TestDatabase, broker: NatsServer, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterline_aggregate.main.split", lambda _: ())
    async with running_aggregate(database, broker) as node:
        with pytest.raises(AssertionError):
            await test_a_spoilt_batch_is_buried_and_its_neighbours_count(node, feed, database, *SPOILERS[0])
