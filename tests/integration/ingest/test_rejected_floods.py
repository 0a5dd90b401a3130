"""A flood of rejected events delays its own tenant, and not the others."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from meterline.telemetry import metrics
from meterline_dev.servers import NatsServer
from meterline_ingest.capture import call
from meterline_protos.ingest.v1 import capture_pb2

from tests.support.capture import RunningIngest, Sample, columns, is_known, running_ingest
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import bad

pytestmark = pytest.mark.req("T4.2")

CALL = 500
CALLS = 24


def queued() -> float:
    return float(metrics.CAPTURE_QUEUE._value.get())


async def answered_flood_calls(ingest: RunningIngest, database: TestDatabase) -> int:
    """The number of calls of a flood that are answered before later, equally many calls with valid events."""
    answered = 0

    async def flood(request: capture_pb2.ReportRequest) -> None:
        nonlocal answered
        response = await ingest.report(request)
        assert response.rejected == CALL
        answered += 1

    floods = [columns(*(bad() for _ in range(CALL)), tenant_id="flood") for _ in range(CALLS + 1)]
    good = [columns(*(Sample() for _ in range(CALL))) for _ in range(CALLS)]
    async with await psycopg.AsyncConnection.connect(database.admin_dsn) as holding:
        # The first flush waits for this lock, and all others for the first flush.
        await holding.execute("LOCK TABLE ingest.quarantine_counts IN ACCESS EXCLUSIVE MODE")
        flooding = [asyncio.create_task(flood(request)) for request in floods]
        await eventually(lambda: queued() == CALL * len(floods))
        reporting = [asyncio.create_task(ingest.report(request)) for request in good]
        await eventually(lambda: queued() == CALL * (len(floods) + len(good)))
        await holding.rollback()
    assert [each.accepted for each in await asyncio.gather(*reporting)] == [CALL] * CALLS
    found = answered
    await asyncio.gather(*flooding)
    return found


@pytest.mark.parametrize("charged", [True, False])
async def test_other_tenants_are_served_before_most_of_a_rejected_flood(
    database: TestDatabase, broker: NatsServer, monkeypatch: pytest.MonkeyPatch, charged: bool
) -> None:
    if not charged:
        # Planted bug: rejected events cost as much as accepted ones.
        monkeypatch.setattr(call, "REJECTED_COST", 1)
    async with running_ingest(database, broker, commit_workers=1) as ingest:
        await ingest.put_type()
        for number, slug in enumerate(("acme", "flood"), 1):
            await ingest.onboard(number, slug)
            await eventually(lambda slug=slug: is_known(ingest, slug))  # type: ignore[misc]
        answered = await answered_flood_calls(ingest, database)
    # A turn is two calls. The flood gets two or three of twelve turns, and those before the first rejection.
    assert (answered <= CALLS // 2) is charged
