"""Fault 6: acknowledged events were synced to disk before.

A SIGKILL proves nothing about disks, since the page cache survives it. Without a power failure the test can
prove that Postgres called fsync for the WAL of every answered batch, by its own count, and that the broker is
configured to do the same before each ack. It does not prove that the disk honours an fsync.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from meterline import migrate
from meterline_dev.servers import NatsServer, PostgresServer, sync_interval_is_always
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.capture import RunningIngest, Sample, is_known, rows, running_ingest
from tests.support.databases import Databases, TestDatabase
from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.req("T7.3", "X7")]

BATCHES = 60


@pytest.fixture
def durable(durable_postgres: PostgresServer) -> TestDatabase:
    return Databases(durable_postgres).create([("ingest", migrate.packages("ingest"))])


@pytest.fixture
async def ingest(
    durable: TestDatabase, broker: NatsServer, spans: InMemorySpanExporter
) -> AsyncIterator[RunningIngest]:
    async with running_ingest(durable, broker) as service:
        await service.put_type()
        await service.onboard(1, "acme")
        await eventually(lambda: is_known(service, "acme"))
        yield service


def syncs(database: TestDatabase) -> int:
    """The number of WAL syncs of the server."""
    with psycopg.connect(database.admin_dsn) as admin:
        row = admin.execute("SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal'").fetchone()
    assert row is not None
    return int(row[0])


async def report_one_by_one(ingest: RunningIngest, database: TestDatabase) -> None:
    """Raises AssertionError if the server counts fewer syncs than acknowledged batches."""
    before = syncs(database)
    for _ in range(BATCHES):
        answer = await ingest.report(rows(Sample()))
        assert answer.accepted == 1
    # Sessions publish their statistics after an idle time.
    await eventually(lambda: syncs(database) - before, seconds=4, until=lambda count: count >= BATCHES)


async def test_every_acknowledged_batch_was_synced(
    ingest: RunningIngest, durable: TestDatabase, broker: NatsServer
) -> None:
    with psycopg.connect(durable.admin_dsn) as admin:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert admin.execute(f"SHOW {setting}").fetchone() == ("on",)
    await report_one_by_one(ingest, durable)
    assert await asyncio.to_thread(sync_interval_is_always, broker.monitor_url)


async def test_commits_that_do_not_wait_for_the_disk_are_caught(
    durable: TestDatabase, broker: NatsServer, spans: InMemorySpanExporter
) -> None:
    with psycopg.connect(durable.admin_dsn) as admin:
        admin.execute("ALTER ROLE meterline_ingest SET synchronous_commit = off")
    async with running_ingest(durable, broker) as service:
        await service.put_type()
        await service.onboard(1, "acme")
        await eventually(lambda: is_known(service, "acme"))
        with pytest.raises(AssertionError, match="not within"):
            await report_one_by_one(service, durable)
