"""Wires aggregate by hand, and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from meterline import config
from meterline.auth.gate import Gate
from meterline.bus.connection import Bus
from meterline.bus.subjects import EVENTS_ACCEPTED, TENANTS_CHANGED
from meterline.clock import Clock, SystemClock
from meterline.consuming.consumer import Consumer
from meterline.db.pool import Database
from meterline.operations.access import RULES as OPERATIONS
from meterline.operations.api import dead_letters_service
from meterline.rpc.client import Link
from meterline.rpc.server import Server, Servicer
from meterline.service import auth, tls
from meterline.service.api_keys import verifier
from meterline.service.run import Component, Periodic, run
from meterline.tenants import TenantReplica
from meterline.transactions.relay import Relay
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_protos.aggregate.v1 import meters_pb2_grpc, reconciliation_pb2_grpc, usage_pb2_grpc

from meterline_aggregate.access import RULES
from meterline_aggregate.announcing.announcer import MonthAnnouncer
from meterline_aggregate.folding.consumer import AcceptedEvents
from meterline_aggregate.folding.groups import GroupBook, GroupWatch
from meterline_aggregate.folding.series import SeriesBook
from meterline_aggregate.folding.splitting import split
from meterline_aggregate.meters.api import METERS_SERVICE, MetersServicer
from meterline_aggregate.meters.service import Meters
from meterline_aggregate.peers import Ingest
from meterline_aggregate.rebuilds.job import Rebuilder
from meterline_aggregate.rebuilds.raw_events import RawEvents
from meterline_aggregate.reconciliation.api import RECONCILIATION_SERVICE, ReconciliationServicer
from meterline_aggregate.reconciliation.service import Reconciler
from meterline_aggregate.settings import AggregateSettings
from meterline_aggregate.usage.api import USAGE_SERVICE, UsageServicer
from meterline_aggregate.usage.preview import Previews
from meterline_aggregate.usage.service import Usage

NAME = "aggregate"

# How often it is told how full sets of groups are.
GROUP_SECONDS = 60.0


class Aggregate:
    """The parts of one process. Build it inside the event loop."""

    def __init__(self, settings: AggregateSettings, clock: Clock) -> None:
        database = Database(
            settings.database_url.get_secret_value(),
            size=settings.database_pool_size,
            application_name=f"meterline-{NAME}",
        )
        bus = Bus(settings.nats_url.get_secret_value(), name=NAME, replicas=settings.jetstream_replicas)
        relay = Relay(database, bus)
        unit_of_work = UnitOfWork(database, relay.wake)
        tenants = TenantReplica(database)
        caller = auth.caller(settings, NAME, clock)
        identity = Link("identity", settings.identity_address, caller)
        ingest = Ingest(settings.ingest_address, caller)
        book = SeriesBook(GroupBook(settings.max_groups))
        raw = RawEvents(ingest, book)
        self.rebuilder = Rebuilder(database, unit_of_work, raw)
        reconciler = Reconciler(database, tenants, ingest)
        self.announcer = MonthAnnouncer(unit_of_work)
        self.groups = GroupWatch(database, settings.max_groups)
        consumers = (
            Consumer(bus, unit_of_work, TENANTS_CHANGED, NAME, tenants.handle, **settings.consuming),
            Consumer(
                bus,
                unit_of_work,
                EVENTS_ACCEPTED,
                NAME,
                AcceptedEvents(clock, book, self.rebuilder.wake).handle,
                split=split,
                max_messages=settings.batch_messages,
                linger=settings.linger_seconds,
                **settings.consuming,
            ),
        )
        self.components: Sequence[Component] = (
            database,
            bus,
            relay,
            *consumers,
            Periodic("announce-months", settings.emit_seconds, self.announcer.announce),
            Periodic("groups", GROUP_SECONDS, self.groups.look),
            identity,
            ingest,
            *_asking_ingest(settings, reconciler, self.rebuilder),
        )
        self.server = _server(
            settings,
            MetersServicer(
                Meters(database, unit_of_work, tenants, ingest if settings.ingest_address else None)
            ),
            UsageServicer(Usage(database, tenants), Previews(unit_of_work, tenants, book, raw)),
            ReconciliationServicer(reconciler),
            auth.gate(settings, {**RULES, **OPERATIONS}, clock, verifier(identity.channel)),
            dead_letters_service(database, consumers),
        )


def _asking_ingest(
    settings: AggregateSettings, reconciler: Reconciler, rebuilder: Rebuilder
) -> Sequence[Component]:
    if not settings.ingest_address:
        return ()
    return (rebuilder, Periodic("reconcile", settings.reconcile_seconds, reconciler.watch))


def _server(
    settings: AggregateSettings,
    meters: MetersServicer,
    usage: UsageServicer,
    reconciliation: ReconciliationServicer,
    gate: Gate,
    *common: Servicer,
) -> Server:
    return Server(
        settings.bind_host,
        settings.grpc_port,
        [
            (METERS_SERVICE, meters_pb2_grpc.add_MetersServiceServicer_to_server, meters),
            (USAGE_SERVICE, usage_pb2_grpc.add_UsageServiceServicer_to_server, usage),
            (
                RECONCILIATION_SERVICE,
                reconciliation_pb2_grpc.add_ReconciliationServiceServicer_to_server,
                reconciliation,
            ),
            *common,
        ],
        gate=gate,
        bounds=settings.bounds,
        credentials=tls.server_credentials(settings),
        drain=settings.shutdown_drain_seconds,
        grace=settings.shutdown_grace_seconds,
    )


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(AggregateSettings)
    run(NAME, settings, partial(Aggregate, settings, SystemClock()))


if __name__ == "__main__":
    main()
