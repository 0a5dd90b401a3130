"""The runtime's parts as in one process of a service, on real servers, with a test fact."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nats
import psycopg
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from meterline.bus.connection import Bus
from meterline.bus.subjects import Fact
from meterline.consuming.consumer import Consumer
from meterline.consuming.delivery import Delivery, Handler
from meterline.db.pool import Database
from meterline.db.provision import SERVICES, app_role
from meterline.transactions.relay import Relay
from meterline.transactions.unit_of_work import Transaction, UnitOfWork
from meterline_dev.servers import NatsServer
from nats.js.api import RawStreamMsg

from tests.support.bus import OpenBus, unanswered
from tests.support.databases import COMMON, Databases, TestDatabase
from tests.support.polling import eventually

SERVICE = "ingest"
PROBE = Fact("probe.>", "PROBE", "ingest", ("ingest",), StringValue)
NAME = PROBE.consumer_name(SERVICE)

Effect = tuple[str, str]


@dataclass
class Node:
    """One process's database pool, broker connection, relay and unit of work."""

    database: Database
    bus: Bus
    relay: Relay
    unit_of_work: UnitOfWork

    async def emit(self, *notes: str) -> list[uuid.UUID]:
        """Commits one message for each of `notes`, in one transaction; returns their ids."""
        async with self.unit_of_work.begin() as tx:
            envelopes = [tx.emit("probe.x", StringValue(value=note)) for note in notes]
            await tx.commit()
        return [envelope.message_id for envelope in envelopes]

    def consumer(self, handler: Handler | None = None, **options: Any) -> Consumer:
        """A consumer of the probe fact; `handler` is `note_effects` by default."""
        return Consumer(self.bus, self.unit_of_work, PROBE, SERVICE, handler or note_effects, **options)


OpenNode = Callable[..., Awaitable[Node]]


async def note_effects(transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
    """A handler with a countable effect: a row for each message, without a key that would hide duplicates."""
    for delivery in deliveries:
        await transaction.connection.execute(
            "INSERT INTO effects (message_id, note) VALUES (%s, %s)",
            (delivery.message_id, StringValue.FromString(delivery.data).value),
        )


@pytest.fixture
def effects_database(databases: Databases) -> Iterator[TestDatabase]:
    """All roles and schemas, with the runtime's tables in each and `effects` in that of one service."""
    effects = "tests.support.effects"
    database = databases.create(
        [(service, (*COMMON, effects) if service == SERVICE else COMMON) for service in SERVICES]
    )
    yield database
    databases.release(database)


@pytest.fixture
async def open_node(effects_database: TestDatabase, open_bus: OpenBus) -> AsyncIterator[OpenNode]:
    """A function `(pool_size=8, relay=Relay, **relay_options) -> Node`, with database and bus started, and
    the relay not. The probe's stream exists. All nodes are stopped after the test."""
    nodes: list[Node] = []

    async def make(pool_size: int = 8, relay: type[Relay] = Relay, **options: Any) -> Node:
        database = Database(effects_database.app_dsn(SERVICE), size=pool_size)
        await database.start()
        bus = await open_bus(f"node-{len(nodes)}")
        await bus.ensure_streams(PROBE)
        made = relay(database, bus, **options)
        nodes.append(Node(database, bus, made, UnitOfWork(database, made.wake)))
        return nodes[-1]

    yield make
    for node in nodes:
        await node.relay.stop()
        await node.database.stop()


@pytest.fixture
async def node(open_node: OpenNode) -> Node:
    return await open_node()


def effects(database: TestDatabase) -> list[Effect]:
    """(message id, note) of every effect, sorted."""
    with psycopg.connect(database.owner_dsn(SERVICE)) as connection:
        rows = connection.execute("SELECT message_id::text, note FROM effects ORDER BY 1, 2").fetchall()
    return [(message_id, note) for message_id, note in rows]


def notes(database: TestDatabase) -> list[str]:
    """The notes of all effects, sorted."""
    return sorted(note for _, note in effects(database))


def count(database: TestDatabase, table: str, where: str = "true") -> int:
    """The number of rows of the service's `table` that satisfy `where`."""
    with psycopg.connect(database.admin_dsn) as connection:
        row = connection.execute(f"SELECT count(*) FROM {SERVICE}.{table} WHERE {where}").fetchone()
    assert row is not None
    return int(row[0])


def end_sessions(database: TestDatabase) -> int:
    """Ends all sessions of the service's application role, like a failover; returns their number."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as connection:
        cursor = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND datname = %s",
            (app_role(SERVICE), database.name),
        )
        return len(cursor.fetchall())


async def stored(broker: NatsServer) -> list[RawStreamMsg]:
    """All messages of the probe on the broker, in the order of arrival."""
    client = await nats.connect(broker.url, allow_reconnect=False)
    try:
        manager = client.jsm()
        state = (await manager.stream_info(PROBE.stream)).state
        return [await manager.get_msg(PROBE.stream, seq) for seq in range(1, state.last_seq + 1)]
    finally:
        await client.close()


async def unanswered_probes(broker: NatsServer, consumer: str) -> int:
    """The number of messages of the probe that a consumer has not acknowledged."""
    client = await nats.connect(broker.url, allow_reconnect=False)
    try:
        return await unanswered(client, PROBE.stream, consumer)
    finally:
        await client.close()


async def pending(broker: NatsServer, consumer: str) -> tuple[int, int]:
    """The number of messages that wait for a consumer's ack, and of those that wait for delivery."""
    client = await nats.connect(broker.url, allow_reconnect=False)
    try:
        info = await client.jsm().consumer_info(PROBE.stream, consumer)
        return info.num_ack_pending or 0, info.num_pending or 0
    finally:
        await client.close()


async def noted(database: TestDatabase, expected: Sequence[str], seconds: float = 60.0) -> None:
    """Waits for as many effects as expected; checks that they are the expected ones, each once."""
    await eventually(lambda: notes(database), seconds=seconds, until=lambda seen: len(seen) >= len(expected))
    assert notes(database) == sorted(expected)


async def settled(broker: NatsServer) -> None:
    """Waits until every message on the broker is acknowledged."""
    await eventually(lambda: unanswered_probes(broker, NAME), until=lambda left: left == 0)


async def publish(node: Node, *messages: str) -> None:
    """Publishes messages through a relay that runs once."""
    await node.emit(*messages)
    while await node.relay.publish_pending():
        continue


async def replay(node: Node, broker: NatsServer, times: int) -> None:
    """Redelivers the whole stream repeatedly, as if the broker had lost every ack."""
    for _ in range(times):
        await node.bus.jetstream().delete_consumer(PROBE.stream, NAME)
        consumer = node.consumer()
        await consumer.start()
        await settled(broker)
        await consumer.stop()
