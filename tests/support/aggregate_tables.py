"""Aggregate's handlers without a consumer, on a real database."""

from __future__ import annotations

from collections.abc import Sequence

from meterline.bus.subjects import TENANTS_CHANGED
from meterline.clock import SystemClock
from meterline.consuming.delivery import Delivery
from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS
from meterline.ids import new_id
from meterline.rpc.client import Caller
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_aggregate.folding.consumer import AcceptedEvents
from meterline_aggregate.folding.groups import GroupBook
from meterline_aggregate.folding.series import SeriesBook
from meterline_aggregate.kinds.kind import Aggregation
from meterline_aggregate.meters.rules.definitions import Definition
from meterline_aggregate.meters.service import Meters
from meterline_aggregate.peers import Ingest
from meterline_aggregate.rebuilds.job import Rebuilder
from meterline_aggregate.rebuilds.raw_events import RawEvents
from meterline_protos.aggregate.v1 import meters_pb2
from meterline_protos.events.v1 import events_pb2

from tests.support.aggregate import METERS


class Tables:
    """Aggregate's handlers without a consumer: a test decides which messages share a transaction."""

    def __init__(self, dsn: str, ingest: str, *, max_groups: int = 10_000) -> None:
        self.database = Database(dsn, size=4)
        self.ingest = Ingest(ingest, Caller())
        self.unit_of_work = UnitOfWork(self.database, lambda: None)
        book = SeriesBook(GroupBook(max_groups))
        self.accepted = AcceptedEvents(SystemClock(), book, lambda: None)
        self.rebuilder = Rebuilder(self.database, self.unit_of_work, RawEvents(self.ingest, book))

    async def __aenter__(self) -> Tables:
        await self.database.start()
        await self.ingest.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ingest.stop()
        await self.database.stop()

    async def onboard(self, number: int, slug: str, zone: str) -> None:
        async with self.unit_of_work.begin() as tx:
            fact = events_pb2.TenantChanged(
                tenant_id=number, slug=slug, version=1, time_zone=zone, currency="USD", active=True
            )
            change = Delivery(new_id(), TENANTS_CHANGED.subject, fact.SerializeToString())
            await TenantReplica(self.database).handle(tx, [change])
            await tx.commit()

    async def create_meters(self, wanted: Sequence[meters_pb2.Meter] = METERS) -> None:
        meters = Meters(self.database, self.unit_of_work, TenantReplica(self.database))
        for one in wanted:
            definition = Definition(
                one.name,
                one.event_type,
                Aggregation(one.aggregation),
                one.quantity,
                one.unique_dimension,
                tuple(one.group_by),
                tuple(sorted(one.filter.items())),
            )
            await meters.create(definition)

    async def rebuild_now(self) -> None:
        """Rebuilds every waiting month, also after failed attempts."""
        async with self.database.connection(ALL_TENANTS) as connection:
            await connection.execute("UPDATE pending_rebuilds SET next_attempt_at = now()")
            await connection.commit()
        await self.rebuilder.rebuild_due()

    async def handle(self, facts: Sequence[events_pb2.EventsAccepted]) -> None:
        """Handles all messages in one transaction."""
        deliveries = [
            Delivery(new_id(), "events.accepted.0", fact.SerializeToString(), {}, "", 1) for fact in facts
        ]
        async with self.unit_of_work.begin() as tx:
            await self.accepted.handle(tx, deliveries)
            await tx.commit()
