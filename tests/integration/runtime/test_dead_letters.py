"""Dead letters are listed, and redriven exactly once, through the API that every service mounts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from meterline.auth.gate import Anybody, Gate
from meterline.auth.rules import rules_of
from meterline.consuming.breaker import BurialRules
from meterline.consuming.consumer import Consumer
from meterline.consuming.dead_letter_report import DeadLetterReport
from meterline.consuming.dead_letters import queries
from meterline.consuming.delivery import Delivery
from meterline.errors import Poison, RetryLater
from meterline.operations.api import dead_letters_service
from meterline.rpc.server import Server
from meterline.transactions.unit_of_work import Transaction
from meterline_dev.servers import NatsServer
from meterline_protos.common.v1 import types_pb2
from meterline_protos.operations.v1 import dead_letters_pb2 as api
from meterline_protos.operations.v1 import dead_letters_pb2_grpc
from prometheus_client import REGISTRY

from tests.support.calls import started
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import (
    PROBE,
    SERVICE,
    Node,
    count,
    note_effects,
    notes,
    unanswered_probes,
)

pytestmark = [pytest.mark.req("O2", "T3.1")]

NAME = PROBE.consumer_name(SERVICE)
BURY_ALL = BurialRules(percent=100)


@dataclass
class Handler:
    """Refuses the notes of `failures`; sets `entered` when it handles one, and then waits for `proceed`."""

    failures: dict[str, Exception] = field(default_factory=dict)
    calls: int = 0
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    proceed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            note = StringValue.FromString(delivery.data).value
            if note in self.failures:
                raise self.failures[note]
        await note_effects(transaction, deliveries)
        self.calls += 1
        self.entered.set()
        if self.calls == 1:
            await self.proceed.wait()


@dataclass
class World:
    """A service's consumer, its dead letters, and its API."""

    node: Node
    database: TestDatabase
    broker: NatsServer
    handler: Handler
    consumer: Consumer
    stub: dead_letters_pb2_grpc.DeadLettersServiceAsyncStub

    async def bury(self, *texts: str, error: str = "no such event type") -> list[str]:
        """Publishes messages that become dead letters; returns their ids."""
        self.handler.failures |= {text: Poison(error) for text in texts}
        ids = await self.node.emit(*texts)
        while await self.node.relay.publish_pending():
            continue
        await self.consumer.start()
        await eventually(lambda: unanswered_probes(self.broker, NAME), until=lambda left: left == 0)
        await self.consumer.stop()
        assert set(map(str, ids)) <= {row[0] for row in self.rows("message_id::text")}
        return [str(message_id) for message_id in ids]

    def fix(self, *texts: str) -> None:
        for text in texts or list(self.handler.failures):
            del self.handler.failures[text]
        self.handler.proceed.set()

    def rows(self, columns: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.database.admin_dsn) as connection:
            found = connection.execute(
                f"SELECT {columns} FROM {SERVICE}.dead_letters ORDER BY received_at, message_id"
            )
            return found.fetchall()

    async def letters(self, **request: object) -> list[api.DeadLetter]:
        """All dead letters of a request, over all pages."""
        found: list[api.DeadLetter] = []
        token = ""
        while True:
            answer = await self.stub.ListDeadLetters(
                api.ListDeadLettersRequest(page_token=token, **request)  # type: ignore[arg-type]
            )
            found += answer.dead_letters
            token = answer.next_page_token
            if not token:
                return found

    async def redrive(self, **request: object) -> api.RedriveDeadLettersResponse:
        given = {"requested_by": "ann", "reason": "the type is there now"} | request
        return await self.stub.RedriveDeadLetters(api.RedriveDeadLettersRequest(**given))  # type: ignore[arg-type]


@pytest.fixture
async def world(node: Node, broker: NatsServer, effects_database: TestDatabase) -> AsyncIterator[World]:
    handler = Handler()
    consumer = node.consumer(handler, rules=BURY_ALL)
    server = Server(
        "127.0.0.1",
        0,
        [dead_letters_service(node.database, [consumer])],
        gate=Gate(rules_of(["meterline.operations.v1.DeadLettersService"]), Anybody()),
        grace=0.5,
    )
    async with started(server) as channel:
        stub = dead_letters_pb2_grpc.DeadLettersServiceStub(channel)
        yield World(node, effects_database, broker, handler, consumer, stub)


def outcomes(answer: api.RedriveDeadLettersResponse) -> dict[str, str]:
    return {
        result.message_id: api.RedriveOutcome.Name(result.outcome).removeprefix("REDRIVE_OUTCOME_")
        for result in answer.results
    }


def at(moment: object) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(moment)  # type: ignore[arg-type]
    return found


# --- listing


async def test_dead_letter_is_listed_with_all_its_fields(world: World) -> None:
    (message_id,) = await world.bury("poison")
    (letter,) = await world.letters()
    assert (letter.message_id, letter.consumer, letter.subject) == (message_id, NAME, "probe.x")
    assert (letter.error, letter.state, letter.attempts) == (
        "no such event type",
        api.DEAD_LETTER_STATE_OPEN,
        1,
    )
    payload = StringValue(value="poison").SerializeToString()
    assert (letter.payload_size, letter.payload) == (len(payload), b"")
    assert letter.received_at == letter.failed_at
    assert not letter.HasField("redriven_at")
    (letter,) = await world.letters(include_payload=True)
    assert letter.payload == payload


@pytest.mark.parametrize("page_size", [1, 2, 7, 0])
async def test_pages_contain_each_dead_letter_once(world: World, page_size: int) -> None:
    ids = await world.bury(*map(str, range(7)))
    # All have the same time, as after a restore or an import.
    with psycopg.connect(world.database.admin_dsn) as connection:
        connection.execute(f"UPDATE {SERVICE}.dead_letters SET received_at = now()")
    for with_payload in (False, True):
        found = await world.letters(page_size=page_size, include_payload=with_payload)
        assert [letter.message_id for letter in found] == sorted(ids)


async def test_list_filters_by_error_time_and_state(world: World) -> None:
    garbled = await world.bury("a", "b", error="garbled: 100% of it_")
    unknown = await world.bury("c", error="unknown tenants [7]")

    async def found(**conditions: object) -> list[str]:
        chosen = api.DeadLetterFilter(**conditions)  # type: ignore[arg-type]
        return [letter.message_id for letter in await world.letters(filter=chosen)]

    assert await found(error_prefix="garbled: 100% of") == garbled
    assert await found(error_prefix="unknown") == unknown
    assert await found(error_prefix="%") == await found(error_prefix="arbled") == []
    assert await found(consumer=NAME) == garbled + unknown
    ((boundary,),) = world.rows("received_at")[2:]
    assert await found(received=types_pb2.TimeRange(end_time=at(boundary))) == garbled
    assert await found(received=types_pb2.TimeRange(start_time=at(boundary))) == unknown

    world.fix("c")
    await world.redrive(message_ids=unknown)
    assert await found() == garbled
    both = [api.DEAD_LETTER_STATE_OPEN, api.DEAD_LETTER_STATE_REDRIVEN]
    assert [letter.message_id for letter in await world.letters(states=both)] == garbled + unknown


# --- redriving


async def test_redriven_letter_is_applied_and_stays_as_history(world: World) -> None:
    ids = await world.bury("a", "b")
    world.fix()
    answer = await world.redrive(all=True)
    assert outcomes(answer) == dict.fromkeys(ids, "APPLIED")
    assert answer.left == 0
    assert notes(world.database) == ["a", "b"]
    assert await world.letters() == []
    first, _ = await world.letters(states=[api.DEAD_LETTER_STATE_REDRIVEN])
    assert (first.redriven_by, first.reason, first.attempts) == ("ann", "the type is there now", 2)
    assert first.redriven_at.ToNanoseconds() > first.received_at.ToNanoseconds()
    assert outcomes(await world.redrive(message_ids=ids)) == dict.fromkeys(ids, "SKIPPED")
    assert notes(world.database) == ["a", "b"]


@pytest.mark.parametrize(
    "error", [Poison("still no such type"), RetryLater("not yet"), ZeroDivisionError("a fault of ours")]
)
async def test_failed_redrive_keeps_letter_with_new_error(world: World, error: Exception) -> None:
    fixed, poison = await world.bury("a", "poison")
    world.fix("a")
    world.handler.failures["poison"] = error
    for attempt in (2, 3):
        answer = await world.redrive(all=True)
        assert outcomes(answer)[poison] == "FAILED"
        (letter,) = await world.letters()
        assert (letter.message_id, letter.error, letter.attempts) == (poison, str(error), attempt)
        assert letter.failed_at.ToNanoseconds() > letter.received_at.ToNanoseconds()
    assert notes(world.database) == ["a"]
    assert fixed != poison


async def test_dry_run_reports_outcomes_and_changes_nothing(world: World) -> None:
    good, poison = await world.bury("a", "poison")
    world.fix("a")
    before = world.rows("state, attempts, error, failed_at")
    answer = await world.redrive(all=True, dry_run=True)
    assert outcomes(answer) == {good: "APPLIED", poison: "FAILED"}
    assert world.rows("state, attempts, error, failed_at") == before
    assert notes(world.database) == []
    assert outcomes(await world.redrive(all=True)) == {good: "APPLIED", poison: "FAILED"}
    assert notes(world.database) == ["a"]


async def test_repeated_redrives_with_a_limit_reach_all_letters(world: World) -> None:
    poison = await world.bury("p1", "p2", error="garbled")
    good = await world.bury(*"abc", error="unknown tenants [7]")
    world.fix(*"abc")
    chosen = api.DeadLetterFilter(error_prefix="unknown")
    answer = await world.redrive(filter=chosen, limit=2)
    assert outcomes(answer) == dict.fromkeys(good[:2], "APPLIED")
    assert answer.left == 1
    # The older poison messages do not keep the last good one from being redriven.
    tried = [outcomes(await world.redrive(all=True, limit=1)) for _ in range(3)]
    assert tried == [{poison[0]: "FAILED"}, {poison[1]: "FAILED"}, {good[2]: "APPLIED"}]


async def test_redrive_stops_before_deadline_and_reports_the_remaining_count(world: World) -> None:
    await world.bury("a", "b")
    world.fix()
    request = api.RedriveDeadLettersRequest(all=True, requested_by="ann", reason="now")
    answer = await world.stub.RedriveDeadLetters(request, timeout=0.9)
    assert (list(answer.results), answer.left) == ([], 2)


async def redrive_twice(world: World, message_id: str) -> list[str]:
    """Two concurrent redrives: the second is called while the first handles the message."""
    first = asyncio.create_task(world.redrive(message_ids=[message_id]))
    async with asyncio.timeout(15):
        await world.handler.entered.wait()
    second = await world.redrive(message_ids=[message_id])
    world.handler.proceed.set()
    return sorted([outcomes(await first)[message_id], outcomes(second)[message_id]])


@pytest.mark.fault
async def test_two_concurrent_redrives_apply_a_letter_once(world: World) -> None:
    (message_id,) = await world.bury("once")
    del world.handler.failures["once"]
    assert await redrive_twice(world, message_id) == ["APPLIED", "SKIPPED"]
    assert notes(world.database) == ["once"]


@pytest.mark.fault
async def test_redrive_without_row_lock_is_detected(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    unclaimed = queries.claim.replace("FOR UPDATE SKIP LOCKED", "")
    monkeypatch.setitem(cast("dict[str, str]", queries._by_name), "claim", unclaimed)
    (message_id,) = await world.bury("once")
    del world.handler.failures["once"]
    await redrive_twice(world, message_id)
    with pytest.raises(AssertionError):
        assert notes(world.database) == ["once"]


@pytest.mark.fault
async def test_many_concurrent_redrives_of_all_apply_each_letter_once(world: World) -> None:
    texts = [f"{number:02d}" for number in range(30)]
    await world.bury(*texts)
    world.fix()
    await asyncio.gather(*(world.redrive(all=True) for _ in range(6)))
    assert notes(world.database) == texts
    assert count(world.database, "dead_letters", "state = 'redriven' AND attempts = 2") == 30


async def test_redriven_message_is_not_handled_again_from_the_broker(world: World) -> None:
    (message_id,) = await world.bury("once")
    world.fix()
    await world.redrive(message_ids=[message_id])
    await world.node.bus.jetstream().delete_consumer(PROBE.stream, NAME)
    await world.consumer.start()
    await eventually(lambda: unanswered_probes(world.broker, NAME), until=lambda left: left == 0)
    await world.consumer.stop()
    assert notes(world.database) == ["once"]


# --- invalid requests


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, "message_ids"),
        ({"all": True, "message_ids": [str(uuid.uuid4())]}, "message_ids"),
        ({"all": True, "filter": api.DeadLetterFilter()}, "message_ids"),
        ({"message_ids": ["7"]}, "message_ids"),
        ({"message_ids": [str(uuid.uuid4())] * 1_001}, "message_ids"),
        ({"all": True, "requested_by": ""}, "requested_by"),
        ({"all": True, "requested_by": "x" * 129}, "requested_by"),
        ({"all": True, "reason": ""}, "reason"),
        ({"all": True, "reason": "a\0b"}, "reason"),
        ({"filter": api.DeadLetterFilter(error_prefix="\0")}, "filter.error_prefix"),
    ],
)
async def test_invalid_redrive_is_refused(world: World, request_: dict[str, object], field: str) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await world.redrive(**request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(field)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"filter": api.DeadLetterFilter(consumer="nobody")}, grpc.StatusCode.NOT_FOUND),
        ({"states": [7]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"page_token": "none of ours"}, grpc.StatusCode.INVALID_ARGUMENT),
        (
            {
                "filter": api.DeadLetterFilter(
                    received=types_pb2.TimeRange(start_time=Timestamp(seconds=2**60))
                )
            },
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
)
async def test_invalid_list_is_refused(
    world: World, request_: dict[str, object], code: grpc.StatusCode
) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await world.stub.ListDeadLetters(api.ListDeadLettersRequest(**request_))  # type: ignore[arg-type]
    assert caught.value.code() is code


# --- the metric


async def test_metric_counts_open_dead_letters(world: World) -> None:
    def reported() -> float | None:
        return REGISTRY.get_sample_value("meterline_dead_letters", {"consumer": NAME})

    report = DeadLetterReport(world.node.database).report
    await world.bury("a", "b")
    await report()
    assert reported() == 2
    world.fix()
    await world.redrive(all=True)
    await report()
    assert reported() == 0
