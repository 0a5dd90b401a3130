"""The message of a batch of corrections can be rebuilt from stored rows, byte by byte."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline.clock import to_us
from meterline.db.pool import Database
from meterline_ingest.corrections.correction_message import events_corrected
from meterline_ingest.corrections.store import corrections
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.event_types.store import EventTypeRepository
from meterline_protos.common.v1 import types_pb2

from tests.support.aggregate import some_events
from tests.support.capture import RunningIngest
from tests.support.corrected import Journal, put_types
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T3.4", "T7.4")

PUBLISHED = """
SELECT b.batch_id, b.received_at, b.trace_id, b.span_id, b.sampled, o.payload
FROM ingest.batches b JOIN ingest.outbox o ON o.message_id = b.message_id
WHERE b.tenant_id = 7 AND b.origin = 2 AND b.batch_id <> ALL(%s)
"""


@pytest.fixture
async def journal(ingest: RunningIngest) -> Journal:
    await put_types(ingest)
    await ingest.onboard(7, "bolt")
    journal = Journal(ingest, 7, "bolt")
    await eventually(journal.corrections.knows_tenant)
    return journal


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_rebuilt_messages_equal_the_published_ones(
    journal: Journal, database: TestDatabase, seed: int
) -> None:
    order = random.Random(seed)
    with psycopg.connect(database.admin_dsn) as connection:
        before = [row[0] for row in connection.execute(PUBLISHED, ([],)).fetchall()]
    start = datetime.now(UTC) - timedelta(days=20)
    events = some_events(7, order.randint(3, 20), seed=seed % 1000, start=start, span=timedelta(days=19))
    await journal.at_random(order, events)
    with psycopg.connect(database.admin_dsn) as connection:
        published = connection.execute(PUBLISHED, (before,)).fetchall()

    pool = Database(database.app_dsn("ingest"), size=2)
    await pool.start()
    try:
        types = await TypeRegistry(EventTypeRepository(pool)).current()
        for batch_id, received_at, trace_id, span_id, sampled, payload in published:
            async with pool.connection([7]) as connection_:
                rows = await corrections.signed_rows(connection_, 7, batch_id)
            trace = types_pb2.TraceContext(
                trace_id=trace_id.hex, span_id=f"{span_id & (1 << 64) - 1:016x}", sampled=sampled
            )
            made = events_corrected(7, batch_id.bytes, trace, to_us(received_at), rows, types)
            assert made == payload
    finally:
        await pool.stop()
