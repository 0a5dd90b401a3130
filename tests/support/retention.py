"""Ingest with events older than the retention period, and the job that deletes them."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from grpc import aio
from meterline.clock import to_us
from meterline.db.pool import Database
from meterline.rpc.client import Caller
from meterline_dev.servers import NatsServer
from meterline_ingest.capture.store.horizon import OldEvents
from meterline_ingest.corrections.peers import Aggregate, Peer
from meterline_ingest.retention.job import Reconciled, Retention
from meterline_protos.aggregate.v1 import reconciliation_pb2, reconciliation_pb2_grpc
from meterline_protos.ingest.v1 import (
    capture_pb2,
    retention_pb2,
    retention_pb2_grpc,
)

from tests.support.capture import RunningIngest, Sample, is_known, rows, running_ingest
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

KEEP = timedelta(days=62)
NOW = datetime.now(UTC)
HORIZON = (NOW - KEEP).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
# One month within the retention, and two beyond it.
LAST_OLD = (HORIZON - timedelta(days=1)).replace(day=1)
FIRST_OLD = (LAST_OLD - timedelta(days=1)).replace(day=1)
NO_WAIT = timedelta(0)


def id_of(moment: datetime) -> str:
    """A UUIDv7 of that millisecond."""
    made = to_us(moment) // 1_000
    return str(uuid.UUID(int=made << 80 | 0x7 << 76 | 0x2 << 62 | random.getrandbits(62)))


def old_sample(moment: datetime, event_id: str = "", tenant_id: str = "") -> Sample:
    return Sample(id=event_id or id_of(moment), time_us=to_us(moment), tenant_id=tenant_id)


@dataclass
class Ledger(reconciliation_pb2_grpc.ReconciliationServiceServicer):
    """A fake of aggregate: answers gaps by tenant, one set for each call, the last one repeatedly."""

    looks: list[dict[str, int]] = field(default_factory=lambda: [{"acme": 0, "bolt": 0}])
    asked: int = 0

    async def Compare(
        self, request: reconciliation_pb2.CompareRequest, context: Any
    ) -> reconciliation_pb2.CompareResponse:
        gaps = self.looks[min(self.asked, len(self.looks) - 1)]
        self.asked += 1
        return reconciliation_pb2.CompareResponse(
            tenants=[
                reconciliation_pb2.TenantComparison(tenant_id=name, accepted=gap, gap=gap)
                for name, gap in gaps.items()
            ]
        )


@asynccontextmanager
async def asking(address: str) -> AsyncIterator[Peer]:
    aggregate = Aggregate(address, Caller(None, None))
    await aggregate.start()
    yield aggregate
    await aggregate.stop()


@asynccontextmanager
async def serving(ledger: Ledger) -> AsyncIterator[Peer]:
    server = aio.server()
    reconciliation_pb2_grpc.add_ReconciliationServiceServicer_to_server(ledger, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asking(f"127.0.0.1:{port}") as aggregate:
            yield aggregate
    finally:
        await server.stop(None)


@dataclass
class Store:
    """Ingest that accepts events of any age, and its retention job."""

    ingest: RunningIngest
    database: TestDatabase
    pool: Database
    ledger: Ledger
    aggregate: Peer

    def retention(self, grace: timedelta = NO_WAIT, keep: timedelta = KEEP, looks: int = 3) -> Retention:
        return Retention(
            OldEvents(self.pool), Reconciled(self.aggregate, looks=looks, pause=0), keep, grace=grace
        )

    @property
    def holds(self) -> retention_pb2_grpc.RetentionServiceAsyncStub:
        return retention_pb2_grpc.RetentionServiceStub(self.ingest.channel)

    async def hold(self, tenant_id: str, name: str = "matter-17") -> retention_pb2.LegalHold:
        answer = await self.holds.PutLegalHold(
            retention_pb2.PutLegalHoldRequest(
                tenant_id=tenant_id, name=name, requested_by="ann", reason="a court asks"
            )
        )
        return answer.legal_hold

    async def release(self, tenant_id: str, name: str = "matter-17") -> retention_pb2.LegalHold:
        answer = await self.holds.ReleaseLegalHold(
            retention_pb2.ReleaseLegalHoldRequest(
                tenant_id=tenant_id, name=name, requested_by="bob", reason="it is over"
            )
        )
        return answer.legal_hold

    async def report(self, *samples: Sample, source: str = "test") -> capture_pb2.ReportResponse:
        return await self.ingest.report(rows(*samples, source=source))

    async def published(self) -> None:
        await eventually(
            lambda: self.admin("SELECT count(*) FROM ingest.outbox WHERE published_at IS NULL") == [0]
        )

    def admin(self, query: str, *parameters: object) -> list[Any]:
        """The first column of a query, without row-level security."""
        with psycopg.connect(self.database.admin_dsn) as connection:
            cursor = connection.execute(query, parameters)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def make_months(self, *months: datetime) -> None:
        """Creates month partitions as upkeep would have done then."""
        with psycopg.connect(self.database.owner_dsn("ingest")) as owner:
            for month in months:
                following = (month + timedelta(days=32)).replace(day=1)
                bounds = owner.execute("SELECT uuid_floor(%s), uuid_floor(%s)", (month, following)).fetchone()
                assert bounds is not None
                for parent in ("events", "event_details"):
                    owner.execute(
                        f"CREATE TABLE {parent}_{month:%Y%m} PARTITION OF {parent}"
                        f" FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
                    )

    def age_batches(self, by: timedelta = timedelta(days=120)) -> None:
        """Moves the receipt of all batches into the past."""
        shift = int(by.total_seconds() * 1_000)
        self.admin(
            "UPDATE ingest.batches SET received_at = received_at - %s, batch_id = (lpad(to_hex("
            "('x' || left(replace(batch_id::text, '-', ''), 12))::bit(48)::bigint - %s), 12, '0')"
            " || right(replace(batch_id::text, '-', ''), 20))::uuid",
            by,
            shift,
        )

    def kept(self) -> set[str]:
        """The ids of stored events, as sent."""
        return set(
            self.admin(
                "SELECT coalesce(t.text_id, e.event_id::text) FROM ingest.events e"
                " LEFT JOIN ingest.event_text_ids t USING (event_id, tenant_id)"
            )
        )


@asynccontextmanager
async def running_store(database: TestDatabase, broker: NatsServer) -> AsyncIterator[Store]:
    """A running store with two tenants, `acme` and `bolt`."""
    ledger, pool = Ledger(), Database(database.app_dsn("ingest"), size=2)
    async with (
        serving(ledger) as aggregate,
        running_ingest(database, broker, max_event_age_days=40_000) as ingest,
    ):
        await ingest.put_type()
        await ingest.onboard(1, "acme")
        await ingest.onboard(2, "bolt")
        for tenant in ("acme", "bolt"):
            await eventually(lambda tenant=tenant: is_known(ingest, tenant))  # type: ignore[misc]
        await pool.start()
        yield Store(ingest, database, pool, ledger, aggregate)
        await pool.stop()
