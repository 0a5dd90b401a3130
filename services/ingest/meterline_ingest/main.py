"""Wires ingest by hand, and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from types import ModuleType

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
    catalogue_pb2,
    catalogue_pb2_grpc,
    event_types_pb2,
    event_types_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
    retention_pb2,
    retention_pb2_grpc,
)

from meterline_ingest.capture import Capture
from meterline_ingest.committer import Committer
from meterline_ingest.handlers.catalogue import Catalogue
from meterline_ingest.handlers.key_upkeep import KeyUpkeep
from meterline_ingest.handlers.keys import KeyStore
from meterline_ingest.handlers.legal_holds import Holding
from meterline_ingest.handlers.privacy import Holds
from meterline_ingest.handlers.replaying import Replayer
from meterline_ingest.handlers.resealing import Resealer, SealedColumn
from meterline_ingest.handlers.unsealing import Unsealer
from meterline_ingest.registry import TenantDirectory, TypeRegistry
from meterline_ingest.repository.audit import AuditReader
from meterline_ingest.repository.catalogue import CatalogueReader
from meterline_ingest.repository.data_keys import DataKeys
from meterline_ingest.repository.dictionaries import Dictionaries
from meterline_ingest.repository.event_types import EventTypeRepository
from meterline_ingest.repository.legal_holds import LegalHolds
from meterline_ingest.repository.messages import Messages
from meterline_ingest.repository.partitions import Partitions
from meterline_ingest.repository.reading import EventReader
from meterline_ingest.repository.retention import OldEvents
from meterline_ingest.repository.writing import EventWriter
from meterline_ingest.retention import Reconciled, Retention
from meterline_ingest.servicers.audit import AuditServicer
from meterline_ingest.servicers.capture import CaptureServicer
from meterline_ingest.servicers.capture import add_to_server as add_capture_to_server
from meterline_ingest.servicers.catalogue import CatalogueServicer
from meterline_ingest.servicers.event_types import EventTypesServicer
from meterline_ingest.servicers.events import EventsServicer
from meterline_ingest.servicers.privacy import PrivacyServicer
from meterline_ingest.servicers.retention import RetentionServicer
from meterline_ingest.settings import IngestSettings
from meterline_ingest.skews import Skews
from meterline_ingest.storing import Storing
from meterline_ingest.upkeep import Upkeep
from meterline_ingest.vault import Vault

NAME = "ingest"
# What is sealed, and what forbids that it is destroyed.
SEALED_COLUMNS: Sequence[SealedColumn] = ()
HOLDS: Sequence[Holds] = (LegalHolds(),)


class Ingest:
    """The parts of one process. Build it inside the event loop."""

    def __init__(self, settings: IngestSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._database = Database(
            settings.database_url.get_secret_value(),
            size=settings.database_pool_size,
            application_name=f"meterline-{NAME}",
            generic_plans=True,
        )
        bus = Bus(settings.nats_url.get_secret_value(), name=NAME, replicas=settings.jetstream_replicas)
        relay = Relay(self._database, bus, linger=settings.relay_linger_ms / 1000)
        self._unit_of_work = UnitOfWork(self._database, relay.wake)
        self._tenants = TenantReplica(self._database)
        identity = client.Link(settings.identity_address)
        aggregate = client.Link(settings.aggregate_address)
        self._old_events = OldEvents(self._database)
        self._event_types = EventTypeRepository(self._database)
        self._types = TypeRegistry(self._event_types)
        self._key_store = _key_store(settings, self._database, self._unit_of_work)
        self._entries = CatalogueReader(self._database)
        partitions = Partitions(self._database)
        self._committer = self._build_committer(partitions, TenantDirectory(self._tenants, identity.channel))
        known_tenants = Consumer(bus, self._unit_of_work, TENANTS_CHANGED, NAME, self._tenants.handle)
        self.components: Sequence[Component] = (
            self._database,
            bus,
            relay,
            aggregate,
            Upkeep(partitions, self._retention(aggregate)),
            known_tenants,
            identity,
            *_keeping(settings, self._database, self._key_store),
            self._committer,
        )
        self.server = Server(
            settings.bind_host,
            settings.grpc_port,
            self._servicers(),
            drain=settings.shutdown_drain_seconds,
            grace=settings.shutdown_grace_seconds,
        )

    def _build_committer(self, partitions: Partitions, directory: TenantDirectory) -> Committer:
        settings = self._settings
        storing = Storing(
            self._unit_of_work,
            EventWriter(self._database, partitions),
            Dictionaries(self._database),
            self._key_store.vault,
        )
        capture = Capture(
            storing,
            directory,
            self._types,
            self._entries,
            Skews(timedelta(seconds=settings.clock_skew_tolerance_seconds)),
            self._old_events,
            self._clock,
            max_age=timedelta(days=settings.max_event_age_days),
            max_ahead=timedelta(seconds=settings.max_event_ahead_seconds),
        )
        return Committer(
            capture.flush,
            workers=settings.commit_workers,
            window=settings.commit_window_ms / 1000,
            max_queued=settings.max_queued_events,
        )

    def _retention(self, aggregate: client.Link) -> Retention:
        keep = timedelta(days=self._settings.raw_event_retention_days)
        return Retention(self._old_events, Reconciled(aggregate.channel), keep)

    def _events_servicer(self) -> EventsServicer:
        return EventsServicer(
            self._tenants,
            EventReader(self._database),
            self._types,
            Unsealer(self._unit_of_work, self._key_store.vault),
            Replayer(self._unit_of_work, Messages(self._database), self._types),
            self._clock,
        )

    def _servicers(self) -> list[Servicer]:
        catalogue = Catalogue(self._database, self._unit_of_work, self._tenants, self._entries)
        return [
            (
                _full_name(capture_pb2, "CaptureService"),
                add_capture_to_server,
                CaptureServicer(self._committer, self._clock),
            ),
            (
                _full_name(events_pb2, "EventsService"),
                events_pb2_grpc.add_EventsServiceServicer_to_server,
                self._events_servicer(),
            ),
            (
                _full_name(event_types_pb2, "EventTypesService"),
                event_types_pb2_grpc.add_EventTypesServiceServicer_to_server,
                EventTypesServicer(self._unit_of_work, self._tenants, self._event_types, self._types),
            ),
            (
                _full_name(catalogue_pb2, "CatalogueService"),
                catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server,
                CatalogueServicer(catalogue),
            ),
            (
                _full_name(retention_pb2, "RetentionService"),
                retention_pb2_grpc.add_RetentionServiceServicer_to_server,
                RetentionServicer(
                    Holding(self._unit_of_work, self._tenants, self._key_store.keys, LegalHolds())
                ),
            ),
            *_privacy(self._key_store, self._tenants, AuditReader(self._database)),
        ]


def _full_name(module: ModuleType, service: str) -> str:
    name: str = module.DESCRIPTOR.services_by_name[service].full_name
    return name


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


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(IngestSettings)
    run(NAME, settings, partial(Ingest, settings, SystemClock()))


if __name__ == "__main__":
    main()
