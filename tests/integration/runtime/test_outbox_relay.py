"""The relay publishes all committed messages, in any order of commits and despite failures."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from meterline.bus.subjects import INVOICES_CHANGED
from meterline.db.pool import Database
from meterline.transactions.relay import Relay
from meterline.transactions.unit_of_work import Transaction
from meterline_dev.servers import NatsServer
from nats.js.api import RawStreamMsg
from prometheus_client import REGISTRY
from psycopg.rows import TupleRow

from tests.support.bus import OpenBus
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import Node, OpenNode, count, end_sessions, notes, stored

pytestmark = [pytest.mark.req("K3", "T7.3")]

WRITERS = 32


def message_id(message: RawStreamMsg) -> uuid.UUID:
    return uuid.UUID((message.headers or {})["Nats-Msg-Id"])


async def assert_all_published(broker: NatsServer, ids: Sequence[uuid.UUID], seconds: float = 15.0) -> None:
    """Asserts that the broker stores each of `ids`, and nothing twice."""

    async def missing() -> set[uuid.UUID]:
        return set(ids) - {message_id(message) for message in await stored(broker)}

    await eventually(missing, seconds=seconds, until=lambda left: not left)
    assert sorted(message_id(message) for message in await stored(broker)) == sorted(ids)


async def assert_all_marked(database: TestDatabase) -> None:
    await eventually(lambda: count(database, "outbox", "published_at IS NULL"), until=lambda left: left == 0)


async def test_message_is_published_with_id_subject_headers_and_payload(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    await node.relay.start()
    (first,) = await node.emit("hello")
    await assert_all_published(broker, [first])
    (message,) = await stored(broker)
    assert message.subject == "probe.x"
    assert StringValue.FromString(message.data or b"").value == "hello"
    await assert_all_marked(effects_database)


async def test_deleted_stream_is_recreated(
    node: Node, open_bus: OpenBus, effects_database: TestDatabase
) -> None:
    bus = await open_bus("publisher")
    await bus.jetstream().delete_stream(INVOICES_CHANGED.stream)
    relay = Relay(node.database, bus)
    async with node.unit_of_work.begin() as transaction:
        transaction.emit(INVOICES_CHANGED.subject, StringValue(value="x"))
        await transaction.commit()
    await relay.start()
    await assert_all_marked(effects_database)
    await relay.stop()
    assert (await bus.jetstream().stream_info(INVOICES_CHANGED.stream)).state.messages == 1


async def test_relay_publishes_several_claims_without_waiting(
    open_node: OpenNode, broker: NatsServer, effects_database: TestDatabase
) -> None:
    node = await open_node(claim=8, poll=3600.0)
    await node.relay.start()
    ids = await node.emit(*map(str, range(100)))
    await assert_all_published(broker, ids)
    await assert_all_marked(effects_database)


async def test_polling_finds_messages_left_by_another_replica(
    open_node: OpenNode, broker: NatsServer
) -> None:
    died, lives = await open_node(), await open_node(poll=0.05)
    await lives.relay.start()
    ids = await died.emit("left behind")
    await assert_all_published(broker, ids)


async def test_relay_stop_publishes_pending_messages_and_is_repeatable(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    await node.relay.stop()
    ids = await node.emit(*map(str, range(200)))
    await node.relay.start()
    await node.relay.start()
    await node.relay.stop()
    await node.relay.stop()
    assert count(effects_database, "outbox", "published_at IS NULL") == 0
    await assert_all_published(broker, ids)
    await node.relay.start()
    more = await node.emit("after a second start")
    await assert_all_published(broker, [*ids, *more])


@pytest.mark.fault
@pytest.mark.req("T2.4")
async def test_broker_restart_loses_no_message(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    await node.relay.start()
    ids = await node.emit("before")
    await assert_all_published(broker, ids)
    await asyncio.to_thread(broker.stop)
    for number in range(20):
        ids += await node.emit(f"meanwhile {number}")
    assert count(effects_database, "outbox", "published_at IS NULL") == 20
    await asyncio.to_thread(broker.start)
    await assert_all_published(broker, ids)
    await assert_all_marked(effects_database)


@pytest.mark.fault
async def test_session_lost_between_publish_and_mark_causes_no_duplicate(
    open_node: OpenNode, broker: NatsServer, effects_database: TestDatabase
) -> None:
    """The relay publishes the same rows again, and the broker recognises their ids."""
    losses = 0

    class LosesItsSession(Relay):
        async def _publish(self, rows: Sequence[TupleRow]) -> tuple[list[uuid.UUID], BaseException | None]:
            nonlocal losses
            published = await super()._publish(rows)
            if losses < 3:
                losses += 1
                await asyncio.to_thread(end_sessions, effects_database)
            return published

    node, writer = await open_node(relay=LosesItsSession, claim=4), await open_node()
    ids = await writer.emit(*map(str, range(10)))
    await node.relay.start()
    await assert_all_marked(effects_database)
    await assert_all_published(broker, ids)
    assert losses == 3


async def test_message_without_stream_does_not_block_others(
    node: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    async with node.unit_of_work.begin() as tx:
        tx.emit("nowhere", b"")
        good = tx.emit("probe.x", b"")
        await tx.commit()
    await node.relay.start()
    await assert_all_published(broker, [good.message_id])
    later = await node.emit("later")
    await assert_all_published(broker, [good.message_id, *later])
    assert count(effects_database, "outbox", "published_at IS NULL") == 1, "it stays, and is not lost"


async def test_two_relays_publish_each_message_once(
    open_node: OpenNode, broker: NatsServer, effects_database: TestDatabase
) -> None:
    first, second, other = await open_node(claim=4), await open_node(claim=4), await open_node()
    consumer = other.consumer()
    await consumer.start()
    sent_before = REGISTRY.get_sample_value("meterline_outbox_published_total") or 0.0
    ids = []
    for number in range(50):
        ids += await other.emit(*(f"{number:02d}-{part}" for part in range(4)))
        if number == 10:
            await asyncio.gather(first.relay.start(), second.relay.start())
    await assert_all_published(broker, ids)
    expected = sorted(f"{number:02d}-{part}" for number in range(50) for part in range(4))
    await eventually(lambda: notes(effects_database), until=lambda seen: len(seen) >= len(expected))
    await consumer.stop()
    assert notes(effects_database) == expected
    await assert_all_marked(effects_database)
    sent = (REGISTRY.get_sample_value("meterline_outbox_published_total") or 0.0) - sent_before
    assert sent == len(ids), "the broker would hide what both have sent"


# --- commits out of the order of ids


class CursorRelay(Relay):
    """The planted bug: it remembers the greatest published id, and selects only greater ids."""

    def __init__(self, database: Database, *args: object, **options: object) -> None:
        super().__init__(database, *args, **options)  # type: ignore[arg-type]
        self._cursor = uuid.UUID(int=0)

    async def publish_pending(self) -> int:
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                "SELECT message_id, subject, headers, payload FROM outbox WHERE message_id > %s"
                " ORDER BY message_id LIMIT %s",
                (self._cursor, self._claim),
                binary=True,
            )
            rows = await cursor.fetchall()
            published, failure = await self._publish(rows)
            assert failure is None
            self._cursor = max([self._cursor, *published])
        return len(rows)


async def commit_out_of_order(node: Node, broker: NatsServer) -> list[uuid.UUID]:
    """Opens 32 transactions at once, and commits them in another order than their ids. The greatest id
    commits first and reaches the broker before any other commits. Returns the ids."""
    async with AsyncExitStack() as stack:
        writers: list[tuple[Transaction, uuid.UUID]] = []
        for number in range(WRITERS):
            tx = await stack.enter_async_context(node.unit_of_work.begin())
            writers.append((tx, tx.emit("probe.x", StringValue(value=str(number))).message_id))
        ids = [message_id for _, message_id in writers]
        assert ids == sorted(ids)
        await writers[-1][0].commit()
        node.relay.wake()
        await eventually(lambda: stored(broker))
        rest = writers[:-1]
        random.Random(32).shuffle(rest)
        await asyncio.gather(*(tx.commit() for tx, _ in rest))
    return ids


@pytest.mark.fault
async def test_commits_out_of_order_are_all_published(open_node: OpenNode, broker: NatsServer) -> None:
    node = await open_node(pool_size=WRITERS + 2)
    await node.relay.start()
    await assert_all_published(broker, await commit_out_of_order(node, broker))


@pytest.mark.fault
async def test_relay_with_id_cursor_is_detected(open_node: OpenNode, broker: NatsServer) -> None:
    node = await open_node(pool_size=WRITERS + 2, relay=CursorRelay, poll=0.02)
    await node.relay.start()
    ids = await commit_out_of_order(node, broker)
    with pytest.raises(AssertionError, match="not within"):
        await assert_all_published(broker, ids, seconds=1.0)
