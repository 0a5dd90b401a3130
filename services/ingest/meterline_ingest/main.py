"""Connects the parts of ingest, and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from meterline import config
from meterline.bus.subjects import TENANTS_CHANGED
from meterline.clock import Clock, SystemClock
from meterline.crypto.master_keys import MasterKeys
from meterline.rpc.server import Servicer, service
from meterline.service.platform import Platform
from meterline.service.run import run
from meterline.telemetry import metrics
from meterline.tenants import TenantReplica
from meterline_protos.ingest.v1 import (
    audit_pb2,
    capture_pb2,
    catalogue_pb2,
    corrections_pb2,
    event_types_pb2,
    events_pb2,
    limits_pb2,
    privacy_pb2,
    quarantine_pb2,
    retention_pb2,
    timers_pb2,
)

from meterline_ingest.audit.api import AuditServicer
from meterline_ingest.audit.store import AuditReader
from meterline_ingest.capture.admission import Admission
from meterline_ingest.capture.api import CaptureServicer
from meterline_ingest.capture.faulty_calls import FaultyCalls
from meterline_ingest.capture.group_commit import Committer
from meterline_ingest.capture.numbering import Numbering
from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.pipeline import Capture
from meterline_ingest.capture.rejected import Quarantine
from meterline_ingest.capture.rejection_counts import RejectionCounts
from meterline_ingest.capture.rules.rejected import Held
from meterline_ingest.capture.signed_calls import SignedCalls, SigningKeys
from meterline_ingest.capture.skew_metric import Skews
from meterline_ingest.capture.store.details import SealedDetails
from meterline_ingest.capture.store.events import EventWriter
from meterline_ingest.capture.store.horizon import OldEvents
from meterline_ingest.capture.store.messages import Messages
from meterline_ingest.capture.store.partitions import Partitions
from meterline_ingest.capture.transaction import FlushTransaction
from meterline_ingest.catalogue.api import CatalogueServicer
from meterline_ingest.catalogue.service import Catalogue
from meterline_ingest.catalogue.store import CatalogueReader
from meterline_ingest.corrections.api import CorrectionsServicer
from meterline_ingest.corrections.correct_one import CorrectionContext
from meterline_ingest.corrections.corrector import Corrector
from meterline_ingest.corrections.dry_run import Effects
from meterline_ingest.corrections.imports import Imports
from meterline_ingest.corrections.peers import Aggregate, Publisher
from meterline_ingest.corrections.store.sealed import SealedCorrections
from meterline_ingest.dictionaries.rules import Quotas
from meterline_ingest.dictionaries.store import Dictionaries
from meterline_ingest.event_types.api import EventTypesServicer
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.event_types.store import EventTypeRepository
from meterline_ingest.keys.api import PrivacyServicer
from meterline_ingest.keys.reseal import Resealer
from meterline_ingest.keys.rotation import KeyStore
from meterline_ingest.keys.store import DataKeys
from meterline_ingest.keys.upkeep import KeyUpkeep
from meterline_ingest.keys.vault import Vault
from meterline_ingest.quarantine.api import QuarantineServicer
from meterline_ingest.quarantine.replay import QuarantineReplayer
from meterline_ingest.quarantine.service import QuarantineAccess
from meterline_ingest.quarantine.store import QuarantineCounts, QuarantinePayloads
from meterline_ingest.quarantine.upkeep import QuarantineUpkeep
from meterline_ingest.rate_limits.api import LimitsServicer
from meterline_ingest.rate_limits.cache import LimitRegistry
from meterline_ingest.rate_limits.limiter import RateLimiter
from meterline_ingest.rate_limits.service import LimitHandlers
from meterline_ingest.rate_limits.store.buckets import BucketRepository
from meterline_ingest.rate_limits.store.limits import LimitRepository
from meterline_ingest.rate_limits.tenant_quotas import TenantQuotas
from meterline_ingest.reading.api import EventsServicer
from meterline_ingest.reading.replay import Replayer
from meterline_ingest.reading.store import EventReader
from meterline_ingest.reading.unseal import Unsealer
from meterline_ingest.retention.api import RetentionServicer
from meterline_ingest.retention.holds import Holding
from meterline_ingest.retention.job import Reconciled, Retention
from meterline_ingest.retention.store import LegalHolds
from meterline_ingest.retention.upkeep import Upkeep
from meterline_ingest.settings import IngestSettings
from meterline_ingest.tenants.directory import KnownTenants, TenantDirectory
from meterline_ingest.timers.api import TimersServicer
from meterline_ingest.timers.service import TimerLimits, Timers
from meterline_ingest.timers.sweep import TimerSweep

NAME = "ingest"

# How often the metric of the fullest quotas is set.
QUOTA_SECONDS = 60.0


class Ingest(Platform):
    """The parts of one process."""

    _settings: IngestSettings

    def __init__(self, settings: IngestSettings, clock: Clock) -> None:
        super().__init__(
            NAME, settings, clock, generic_plans=True, relay_linger=settings.relay_linger_ms / 1000
        )
        self._tenants = TenantReplica(self.database)
        self._aggregate = self.add(Aggregate(settings.aggregate_address, self.caller))
        self._old_events = OldEvents(self.database)
        self._partitions = Partitions(self.database)
        self.add(Upkeep(self._partitions, self._retention()))
        self.consume(TENANTS_CHANGED, self._tenants.handle)
        self._identity = self.link("identity", settings.identity_address)
        self._publisher = self.add(Publisher(settings.publisher_address, self.caller))
        self._directory = TenantDirectory(self._tenants, self.unit_of_work, self._identity.channel)
        self._legal_holds = LegalHolds()
        self._event_types = EventTypeRepository(self.database)
        self._types = TypeRegistry(self._event_types)
        self._entries = CatalogueReader(self.database)
        self._key_store = self._keep_keys()
        self._limits = LimitRepository(self.database)
        self._buckets = BucketRepository(self.database)
        self._limit_registry = self.add(LimitRegistry(self._limits))
        self._limiter = self.add(RateLimiter(self._buckets))
        default = Quotas(settings.max_series_per_tenant, settings.max_subjects_per_tenant)
        self._quotas = TenantQuotas(self._tenants, self._limit_registry, default)
        self._dictionaries = Dictionaries(self.database, self._quotas.of)
        self._numbering = Numbering(self._dictionaries)
        self._writer = EventWriter(self.database, self._partitions)
        self._quarantine = Quarantine(
            self._key_store.vault, RejectionCounts(), most=_most_quarantined(settings)
        )
        self.add(self._quarantine_upkeep())
        self.every(QUOTA_SECONDS, "quotas", self._measure_quotas)
        self._capture = self._build_capture()
        self._committer = self.add(self._build_committer())
        self._admission = self._build_admission()
        self._timers = self._build_timers()
        self.add(TimerSweep(self.database, self._timers))
        self.serve(*self._servicers(), api_keys=self._identity)

    async def _measure_quotas(self) -> None:
        series, subjects = await self._dictionaries.fullest(self._quotas.default)
        metrics.QUOTA_FULLEST.labels("series").set(series)
        metrics.QUOTA_FULLEST.labels("subjects").set(subjects)

    def _build_capture(self) -> Capture:
        settings = self._settings
        flush_transaction = FlushTransaction(
            self.unit_of_work,
            self._writer,
            self._numbering,
            self._key_store.vault,
            self._quarantine,
        )
        return Capture(
            flush_transaction,
            self._directory,
            self._types,
            self._entries,
            Skews(timedelta(seconds=settings.clock_skew_tolerance_seconds)),
            self._old_events,
            self.clock,
            max_age=timedelta(days=settings.max_event_age_days),
            max_ahead=timedelta(seconds=settings.max_event_ahead_seconds),
        )

    def _build_committer(self) -> Committer:
        settings = self._settings
        return Committer(
            self._capture.flush,
            FaultyCalls(self.unit_of_work, self._quarantine, self._directory).keep,
            workers=settings.commit_workers,
            window=settings.commit_window_ms / 1000,
            max_queued=settings.max_queued_events,
        )

    def _build_timers(self) -> Timers:
        settings = self._settings
        max_ahead_us = int(settings.max_event_ahead_seconds * 1_000_000)
        return Timers(
            self.database,
            self.unit_of_work,
            self._tenants,
            self._types,
            self._committer,
            self._capture.preview,
            self.clock,
            TimerLimits(settings.max_running_timers_per_tenant, max_ahead_us),
        )

    def _keep_keys(self) -> KeyStore:
        """Builds the parts that keep keys. They end after all parts that seal."""
        settings, keys = self._settings, DataKeys(self.database)
        vault = self.add(Vault(keys, MasterKeys.parse(settings.master_keys.get_secret_value())))
        store = KeyStore(self.unit_of_work, keys, vault)
        max_age = timedelta(days=settings.data_key_max_age_days)
        columns = (SealedDetails(), SealedCorrections(), QuarantinePayloads())
        resealer = Resealer(self.database, keys, vault, columns, most=settings.reseal_values)
        self.add(KeyUpkeep(store, seconds=settings.key_upkeep_seconds, max_age=max_age))
        self.every(settings.reseal_seconds, "reseal", resealer.run)
        return store

    def _retention(self) -> Retention:
        keep = timedelta(days=self._settings.raw_event_retention_days)
        return Retention(self._old_events, Reconciled(self._aggregate), keep)

    def _events_servicer(self) -> EventsServicer:
        return EventsServicer(
            self._tenants,
            EventReader(self.database),
            self._types,
            Unsealer(self.unit_of_work, self._key_store.vault),
            Replayer(self.unit_of_work, Messages(self.database), self._types),
            self.clock,
        )

    def _retention_servicer(self) -> RetentionServicer:
        store = self._key_store
        return RetentionServicer(Holding(self.unit_of_work, self._tenants, store.keys, self._legal_holds))

    def _privacy_servicer(self) -> PrivacyServicer:
        return PrivacyServicer(self._key_store, self._tenants, (self._legal_holds,))

    def _quarantine_upkeep(self) -> QuarantineUpkeep:
        days = self._settings.quarantine_days
        keep_waiting = timedelta(days=days) if days else None
        counts = QuarantineCounts(self.database)
        most = _most_quarantined(self._settings)
        return QuarantineUpkeep(self.unit_of_work, counts, keep_waiting=keep_waiting, most=most)

    def _quarantine_servicer(self) -> QuarantineServicer:
        access = QuarantineAccess(
            self.database, self.unit_of_work, self._tenants, self._key_store.vault, self.clock
        )
        return QuarantineServicer(
            access, self._types, QuarantineReplayer(access, self._capture, self._committer)
        )

    def _corrections_servicer(self) -> CorrectionsServicer:
        vault = self._key_store.vault
        max_ahead = timedelta(seconds=self._settings.max_event_ahead_seconds)
        corrector = Corrector(
            self._types, self._entries, vault, self._numbering, self._writer, self.clock, max_ahead=max_ahead
        )
        effects = Effects(self._aggregate, self._publisher)
        context = CorrectionContext(
            self.database, self.unit_of_work, self._tenants, vault, corrector, effects
        )
        imports = Imports(self.unit_of_work, self._tenants, self._admission, self._capture.dry_run, effects)
        return CorrectionsServicer(context, imports, self._types, self.clock)

    def _build_admission(self) -> Admission:
        return Admission(
            KnownTenants(self._directory),
            self._limit_registry,
            self._limiter,
            self._committer,
            max_waiting=self._settings.max_queued_events,
        )

    def _signed_calls(self) -> SignedCalls:
        settings = self._settings
        keys = SigningKeys(
            self._identity.channel,
            fresh=settings.credential_fresh_seconds,
            stale=settings.credential_stale_seconds,
        )
        return SignedCalls(keys, self.clock)

    def _servicers(self) -> Sequence[Servicer]:
        catalogue = Catalogue(self.database, self.unit_of_work, self._tenants, self._entries)
        limits = LimitHandlers(
            self.unit_of_work,
            self._tenants,
            self._limits,
            self._buckets,
            self._limit_registry,
            self._dictionaries,
            default_quotas=self._quotas.default,
        )
        return (
            service(
                capture_pb2,
                "CaptureService",
                CaptureServicer(self._admission, self._committer, self._signed_calls(), self.clock),
                {"Report": wire.read_report, "Stream": wire.read_stream},
            ),
            service(events_pb2, "EventsService", self._events_servicer()),
            service(
                event_types_pb2,
                "EventTypesService",
                EventTypesServicer(self.unit_of_work, self._tenants, self._event_types, self._types),
            ),
            service(catalogue_pb2, "CatalogueService", CatalogueServicer(catalogue)),
            service(
                corrections_pb2,
                "CorrectionsService",
                self._corrections_servicer(),
                {"ImportEvents": wire.read_import},
            ),
            service(limits_pb2, "LimitsService", LimitsServicer(limits)),
            service(quarantine_pb2, "QuarantineService", self._quarantine_servicer()),
            service(retention_pb2, "RetentionService", self._retention_servicer()),
            service(timers_pb2, "TimersService", TimersServicer(self._timers)),
            service(privacy_pb2, "PrivacyService", self._privacy_servicer()),
            service(audit_pb2, "AuditService", AuditServicer(self._tenants, AuditReader(self.database))),
        )


def _most_quarantined(settings: IngestSettings) -> Held:
    return Held(settings.max_quarantined_per_tenant, settings.max_quarantined_bytes_per_tenant)


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(IngestSettings)
    run(NAME, settings, partial(Ingest, settings, SystemClock()))


if __name__ == "__main__":
    main()
