"""Connects the parts of aggregate and runs the service."""

from __future__ import annotations

from functools import partial

from meterline import config
from meterline.bus.subjects import EVENTS_ACCEPTED, TENANTS_CHANGED
from meterline.clock import Clock, SystemClock
from meterline.rpc.server import service
from meterline.service.platform import Platform
from meterline.service.run import run
from meterline.tenants import TenantReplica
from meterline_protos.aggregate.v1 import meters_pb2, reconciliation_pb2, usage_pb2

from meterline_aggregate.announcing.announcer import MonthAnnouncer
from meterline_aggregate.folding.consumer import AcceptedEvents
from meterline_aggregate.folding.groups import GroupBook, GroupWatch
from meterline_aggregate.folding.series import SeriesBook
from meterline_aggregate.folding.splitting import split
from meterline_aggregate.meters.api import MetersServicer
from meterline_aggregate.meters.service import Meters
from meterline_aggregate.peers import Ingest
from meterline_aggregate.rebuilds.job import Rebuilder
from meterline_aggregate.rebuilds.raw_events import RawEvents
from meterline_aggregate.reconciliation.api import ReconciliationServicer
from meterline_aggregate.reconciliation.service import Reconciler
from meterline_aggregate.settings import AggregateSettings
from meterline_aggregate.usage.api import UsageServicer
from meterline_aggregate.usage.preview import Previews
from meterline_aggregate.usage.service import Usage

NAME = "aggregate"

# How often the metrics of group sets are updated.
GROUP_SECONDS = 60.0


class Aggregate(Platform):
    """The parts of one process."""

    def __init__(self, settings: AggregateSettings, clock: Clock) -> None:
        super().__init__(NAME, settings, clock)
        database, unit_of_work = self.database, self.unit_of_work
        tenants = TenantReplica(database)
        identity = self.link("identity", settings.identity_address)
        ingest = self.add(Ingest(settings.ingest_address, self.caller))
        book = SeriesBook(GroupBook(settings.max_groups))
        raw = RawEvents(ingest, book)
        reconciler = Reconciler(database, tenants, ingest)
        self.rebuilder = Rebuilder(database, unit_of_work, raw)
        self.announcer = MonthAnnouncer(unit_of_work)
        self.groups = GroupWatch(database, settings.max_groups)
        self.consume(TENANTS_CHANGED, tenants.handle)
        self.consume(
            EVENTS_ACCEPTED,
            AcceptedEvents(clock, book, self.rebuilder.wake).handle,
            split=split,
            max_messages=settings.batch_messages,
            linger=settings.linger_seconds,
        )
        self.every(settings.emit_seconds, "announce-months", self.announcer.announce)
        self.every(GROUP_SECONDS, "groups", self.groups.look)
        if settings.ingest_address:
            self.add(self.rebuilder)
            self.every(settings.reconcile_seconds, "reconcile", reconciler.watch)
        meters = Meters(database, unit_of_work, tenants, ingest if settings.ingest_address else None)
        usage = UsageServicer(Usage(database, tenants), Previews(unit_of_work, tenants, book, raw))
        self.serve(
            service(meters_pb2, "MetersService", MetersServicer(meters)),
            service(usage_pb2, "UsageService", usage),
            service(reconciliation_pb2, "ReconciliationService", ReconciliationServicer(reconciler)),
            api_keys=identity,
        )


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(AggregateSettings)
    run(NAME, settings, partial(Aggregate, settings, SystemClock()))


if __name__ == "__main__":
    main()
