"""Wires ingest by hand, and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from meterline import config
from meterline.app import Component, Periodic, run
from meterline.bus.connection import Bus
from meterline.bus.consumer import Consumer
from meterline.bus.subjects import TENANTS_CHANGED
from meterline.clock import Clock, SystemClock
from meterline.crypto.master_keys import MasterKeys
from meterline.db.pool import Database
from meterline.db.unit_of_work import UnitOfWork
from meterline.outbox.relay import Relay
from meterline.rpc import client
from meterline.rpc.server import Server, Servicer
from meterline.tenants import TenantReplica
from meterline_protos.ingest.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    capture_pb2,
    event_types_pb2,
    event_types_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
)

from meterline_ingest.capture import Capture
from meterline_ingest.committer import Committer
from meterline_ingest.handlers.key_upkeep import KeyUpkeep
from meterline_ingest.handlers.keys import KeyStore
from meterline_ingest.handlers.privacy import Holds
from meterline_ingest.handlers.resealing import Resealer, SealedColumn
from meterline_ingest.registry import TenantDirectory, TypeRegistry
from meterline_ingest.repository.audit import AuditReader
from meterline_ingest.repository.data_keys import DataKeys
from meterline_ingest.repository.dictionaries import Dictionaries
from meterline_ingest.repository.event_types import EventTypeRepository
from meterline_ingest.repository.reading import EventReader
from meterline_ingest.repository.writing import EventWriter
from meterline_ingest.servicers.audit import AuditServicer
from meterline_ingest.servicers.capture import CaptureServicer
from meterline_ingest.servicers.capture import add_to_server as add_capture_to_server
from meterline_ingest.servicers.event_types import EventTypesServicer
from meterline_ingest.servicers.events import EventsServicer
from meterline_ingest.servicers.privacy import PrivacyServicer
from meterline_ingest.settings import IngestSettings
from meterline_ingest.vault import Vault

NAME = "ingest"
# What is sealed, and what forbids that it is destroyed.
SEALED_COLUMNS: Sequence[SealedColumn] = ()
HOLDS: Sequence[Holds] = ()


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
        key_store = _key_store(settings, database, unit_of_work)
        committer = _committer(settings, database, unit_of_work, directory, types, clock)
        known_tenants = Consumer(bus, unit_of_work, TENANTS_CHANGED, NAME, tenants.handle)
        self.components: Sequence[Component] = (
            database,
            bus,
            relay,
            known_tenants,
            identity,
            *_keeping(settings, database, key_store),
            committer,
        )
        self.server = Server(
            settings.bind_host,
            settings.grpc_port,
            [
                (
                    capture_pb2.DESCRIPTOR.services_by_name["CaptureService"].full_name,
                    add_capture_to_server,
                    CaptureServicer(committer, clock),
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
                *_privacy(key_store, tenants, AuditReader(database)),
            ],
            drain=settings.shutdown_drain_seconds,
            grace=settings.shutdown_grace_seconds,
        )


def _key_store(settings: IngestSettings, database: Database, unit_of_work: UnitOfWork) -> KeyStore:
    keys = DataKeys(database)
    return KeyStore(
        unit_of_work, keys, Vault(keys, MasterKeys.parse(settings.master_keys.get_secret_value()))
    )


def _privacy(store: KeyStore, tenants: TenantReplica, audit: AuditReader) -> Sequence[Servicer]:
    return (
        (
            privacy_pb2.DESCRIPTOR.services_by_name["PrivacyService"].full_name,
            privacy_pb2_grpc.add_PrivacyServiceServicer_to_server,
            PrivacyServicer(store, tenants, HOLDS),
        ),
        (
            audit_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name,
            audit_pb2_grpc.add_AuditServiceServicer_to_server,
            AuditServicer(tenants, audit),
        ),
    )


def _keeping(settings: IngestSettings, database: Database, store: KeyStore) -> Sequence[Component]:
    """What looks after keys. It ends after all that seals has ended."""
    max_age = timedelta(days=settings.data_key_max_age_days)
    resealer = Resealer(database, store.keys, store.vault, SEALED_COLUMNS, most=settings.reseal_values)
    return (
        store.vault,
        KeyUpkeep(store, seconds=settings.key_upkeep_seconds, max_age=max_age),
        Periodic("reseal", settings.reseal_seconds, resealer.run),
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
