"""Idle services write nothing to the database, and exchange almost no messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import LiteralString

import psycopg
import pytest
from meterline.consuming import pull
from meterline.transactions.relay import Relay
from meterline_dev.servers import NatsServer

from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import Node, OpenNode, notes

pytestmark = pytest.mark.req("S11")

LOOKS = 20


class CountingRelay(Relay):
    """A relay that signals when it has polled often enough."""

    looks = 0

    async def publish_pending(self) -> int:
        self.looks += 1
        return await super().publish_pending()


def next_transaction(database: TestDatabase) -> int:
    """The id of the next writing transaction; reading transactions have no id."""
    with psycopg.connect(database.admin_dsn) as connection:
        row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
async def undisturbed(effects_database: TestDatabase) -> AsyncIterator[None]:
    """Turns off background maintenance of the server, which uses transaction ids as well."""

    def upkeep() -> int:
        with psycopg.connect(effects_database.admin_dsn) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'"
            row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    _configure(effects_database, "SET autovacuum = off")
    await eventually(upkeep, until=lambda running: running == 0, seconds=60)
    yield
    _configure(effects_database, "RESET autovacuum")


def _configure(database: TestDatabase, change: LiteralString) -> None:
    with psycopg.connect(database.admin_dsn, autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM {change}")
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture
async def idle(undisturbed: None, open_node: OpenNode, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node with a relay that polls often, and a consumer whose pull requests often end empty."""
    monkeypatch.setattr(pull, "HEARTBEAT_SECONDS", 0.1)
    node = await open_node(relay=CountingRelay, poll=0.01)
    await node.relay.start()
    return node


async def looked(node: Node) -> None:
    relay = node.relay
    assert isinstance(relay, CountingRelay)
    until = relay.looks + LOOKS
    await eventually(lambda: relay.looks, until=lambda looks: looks >= until)


async def test_idle_relay_and_consumer_write_nothing(
    idle: Node, broker: NatsServer, effects_database: TestDatabase
) -> None:
    consumer = idle.consumer()
    await consumer.start()
    await idle.emit("the last work before the quiet")
    await eventually(lambda: notes(effects_database))
    await looked(idle)  # the mark of that message and the first upkeep are done

    writes_before = next_transaction(effects_database)
    sent_before = idle.bus.client.stats["out_msgs"]
    heard_before = idle.bus.client.stats["in_msgs"]
    await looked(idle)
    await eventually(lambda: idle.bus.client.stats["in_msgs"], until=lambda heard: heard >= heard_before + 3)
    assert next_transaction(effects_database) == writes_before
    assert idle.bus.client.stats["out_msgs"] == sent_before
    await consumer.stop()


async def test_write_counter_detects_a_single_write(idle: Node, effects_database: TestDatabase) -> None:
    await looked(idle)
    before = next_transaction(effects_database)
    await asyncio.to_thread(_write_one_row, effects_database)
    assert next_transaction(effects_database) == before + 1


def _write_one_row(database: TestDatabase) -> None:
    with psycopg.connect(database.app_dsn("ingest")) as connection:
        connection.execute("INSERT INTO effects VALUES (gen_random_uuid(), 'x')")
