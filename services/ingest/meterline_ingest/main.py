"""Wires ingest by hand, and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from meterline import config
from meterline.app import Component, run
from meterline.bus.connection import Bus
from meterline.bus.consumer import Consumer
from meterline.bus.subjects import TENANTS_CHANGED
from meterline.clock import Clock, SystemClock
from meterline.db.pool import Database
from meterline.db.unit_of_work import UnitOfWork
from meterline.outbox.relay import Relay
from meterline.rpc import client
from meterline.rpc.server import Server
from meterline.tenants import TenantReplica
from meterline_protos.ingest.v1 import (
    capture_pb2,
    event_types_pb2,
    event_types_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    limits_pb2,
    limits_pb2_grpc,
)

from meterline_ingest.admission import Admission
from meterline_ingest.capture import Capture
from meterline_ingest.committer import Committer
from meterline_ingest.handlers.limits import LimitHandlers
from meterline_ingest.rate_limiter import RateLimiter
from meterline_ingest.registry import KnownTenants, LimitRegistry, TenantDirectory, TypeRegistry
from meterline_ingest.repository.buckets import BucketRepository
from meterline_ingest.repository.dictionaries import Dictionaries
from meterline_ingest.repository.event_types import EventTypeRepository
from meterline_ingest.repository.limits import LimitRepository
from meterline_ingest.repository.reading import EventReader
from meterline_ingest.repository.writing import EventWriter
from meterline_ingest.servicers.capture import CaptureServicer
from meterline_ingest.servicers.capture import add_to_server as add_capture_to_server
from meterline_ingest.servicers.event_types import EventTypesServicer
from meterline_ingest.servicers.events import EventsServicer
from meterline_ingest.servicers.limits import LimitsServicer
from meterline_ingest.settings import IngestSettings

NAME = "ingest"


class Ingest:
    """The parts of one process. Build it inside the event loop."""

    def __init__(self, settings: IngestSettings, clock: Clock) -> None:
        database = Database(
            settings.database_url.get_secret_value(),
            size=settings.database_pool_size,
            application_name=f"meterline-{NAME}",
        )
        bus = Bus(settings.nats_url.get_secret_value(), name=NAME, replicas=settings.jetstream_replicas)
        relay = Relay(database, bus, linger=settings.relay_linger_ms / 1000)
        unit_of_work = UnitOfWork(database, relay.wake)
        tenants = TenantReplica(database)
        identity = client.Link(settings.identity_address)
        event_types = EventTypeRepository(database)
        types = TypeRegistry(event_types)
        directory = TenantDirectory(tenants, identity.channel)
        committer = _committer(settings, database, unit_of_work, directory, types, clock)
        limits, buckets = LimitRepository(database), BucketRepository(database)
        limit_registry, limiter = LimitRegistry(limits), RateLimiter(buckets)
        admission = Admission(
            KnownTenants(tenants), limit_registry, limiter, max_waiting=settings.max_queued_events
        )
        limit_handlers = LimitHandlers(unit_of_work, tenants, limits, buckets, limit_registry)
        known_tenants = Consumer(bus, unit_of_work, TENANTS_CHANGED, NAME, tenants.handle)
        self.components: Sequence[Component] = (
            database,
            bus,
            relay,
            known_tenants,
            identity,
            limit_registry,
            limiter,
            committer,
        )
        self.server = Server(
            settings.bind_host,
            settings.grpc_port,
            [
                (
                    capture_pb2.DESCRIPTOR.services_by_name["CaptureService"].full_name,
                    add_capture_to_server,
                    CaptureServicer(admission, committer, clock),
                ),
                (
                    events_pb2.DESCRIPTOR.services_by_name["EventsService"].full_name,
                    events_pb2_grpc.add_EventsServiceServicer_to_server,
                    EventsServicer(tenants, EventReader(database), types),
                ),
                (
                    event_types_pb2.DESCRIPTOR.services_by_name["EventTypesService"].full_name,
                    event_types_pb2_grpc.add_EventTypesServiceServicer_to_server,
                    EventTypesServicer(unit_of_work, tenants, event_types, types),
                ),
                (
                    limits_pb2.DESCRIPTOR.services_by_name["LimitsService"].full_name,
                    limits_pb2_grpc.add_LimitsServiceServicer_to_server,
                    LimitsServicer(limit_handlers),
                ),
            ],
            drain=settings.shutdown_drain_seconds,
            grace=settings.shutdown_grace_seconds,
        )


def _committer(
    settings: IngestSettings,
    database: Database,
    unit_of_work: UnitOfWork,
    directory: TenantDirectory,
    types: TypeRegistry,
    clock: Clock,
) -> Committer:
    capture = Capture(
        unit_of_work,
        EventWriter(database),
        Dictionaries(database),
        directory,
        types,
        clock,
        max_age=timedelta(days=settings.max_event_age_days),
        max_ahead=timedelta(seconds=settings.max_event_ahead_seconds),
    )
    return Committer(
        capture.flush,
        workers=settings.commit_workers,
        window=settings.commit_window_ms / 1000,
        max_queued=settings.max_queued_events,
    )


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(IngestSettings)
    run(NAME, settings, partial(Ingest, settings, SystemClock()))


if __name__ == "__main__":
    main()
