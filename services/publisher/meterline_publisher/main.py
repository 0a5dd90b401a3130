"""Wires the publisher by hand, and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from meterline import config
from meterline.bus.connection import Bus
from meterline.bus.subjects import TENANTS_CHANGED, USAGE_WINDOW
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
from meterline_protos.publisher.v1 import invoices_pb2_grpc, prices_pb2_grpc, publications_pb2_grpc

from meterline_publisher.access import RULES
from meterline_publisher.closing.job import Closing
from meterline_publisher.explain.api import ExplanationsServicer
from meterline_publisher.explain.lineage import Lineage
from meterline_publisher.explain.service import Explaining
from meterline_publisher.gaps.api import GapsServicer
from meterline_publisher.gaps.rules import GapReason
from meterline_publisher.gaps.service import Gaps
from meterline_publisher.invoices.api import INVOICES_SERVICE, StoredInvoicesServicer
from meterline_publisher.invoices.service import Invoices
from meterline_publisher.ledger.sender import Sender
from meterline_publisher.peers import Aggregate, Ingest
from meterline_publisher.previews.api import PreviewsServicer
from meterline_publisher.previews.service import Previews
from meterline_publisher.prices.api import PRICES_SERVICE, PricesServicer
from meterline_publisher.prices.deliveries import Deliveries
from meterline_publisher.prices.plans import Plans
from meterline_publisher.prices.service import Prices
from meterline_publisher.providers.none import NoProvider
from meterline_publisher.providers.port import BillingProvider
from meterline_publisher.providers.stripe.provider import StripeProvider
from meterline_publisher.publishing.api import PUBLICATIONS_SERVICE, PublicationsServicer
from meterline_publisher.publishing.service import Publishing
from meterline_publisher.settings import PublisherSettings
from meterline_publisher.settling.service import Settling
from meterline_publisher.tenants.service import TenantChanges
from meterline_publisher.usage.freshness import Freshness
from meterline_publisher.usage.refreshing import Refreshing
from meterline_publisher.usage.replica import UsageWindows, split_windows

NAME = "publisher"


class InvoicesServicer(StoredInvoicesServicer, PreviewsServicer, ExplanationsServicer, GapsServicer):
    """All of InvoicesService: each capability answers its own calls."""

    def __init__(
        self, invoices: Invoices, previews: Previews, explaining: Explaining, gaps: Gaps, trace_ui: str
    ) -> None:
        StoredInvoicesServicer.__init__(self, invoices)
        PreviewsServicer.__init__(self, previews)
        ExplanationsServicer.__init__(self, explaining, trace_ui)
        GapsServicer.__init__(self, gaps)


class Publisher:
    """The parts of one process. Build it inside the event loop. `provider`: in place of the settings'."""

    def __init__(
        self, settings: PublisherSettings, clock: Clock, provider: BillingProvider | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._provider = provider or provider_of(settings, clock)
        self._bills = not isinstance(self._provider, NoProvider)
        self._database = Database(
            settings.database_url.get_secret_value(),
            size=settings.database_pool_size,
            application_name=f"meterline-{NAME}",
        )
        bus = Bus(settings.nats_url.get_secret_value(), name=NAME, replicas=settings.jetstream_replicas)
        relay = Relay(self._database, bus)
        unit_of_work = UnitOfWork(self._database, relay.wake)
        self._tenants = TenantReplica(self._database)
        caller = auth.caller(settings, NAME, clock)
        identity = Link("identity", settings.identity_address, caller)
        self._aggregate = Aggregate(settings.aggregate_address, caller)
        self._ingest = Ingest(settings.ingest_address, caller)
        lineage = Lineage(self._aggregate, self._ingest)
        self._freshness = Freshness(self._aggregate, settings.freshness_wait_seconds)
        self._close_grace = timedelta(seconds=settings.close_grace_seconds)
        afterwards = GapReason.LATE_USAGE if self._bills else GapReason.NO_BILLING_PROVIDER
        self._usage = UsageWindows(clock, self._close_grace, afterwards)
        self._gaps = Gaps(self._database, unit_of_work, self._tenants, clock)
        self._refreshing = Refreshing(unit_of_work, self._freshness, self._usage)
        self._settling = Settling(
            self._database, unit_of_work, self._tenants, self._provider, self._refreshing, clock
        )
        sender = self._make_sender(unit_of_work)
        self._publishing = self._make_publishing(unit_of_work, lineage, sender)
        self._prices = Prices(self._database, unit_of_work, self._aggregate, self._tenants)
        self._plans = Plans(self._database, unit_of_work, clock)
        self._deliveries = Deliveries(self._database, unit_of_work, self._aggregate)
        self._consumers = self._make_consumers(bus, unit_of_work)
        self.components: Sequence[Component] = (
            self._database,
            bus,
            self._provider,
            identity,
            self._aggregate,
            self._ingest,
            relay,
            lineage,
            # Nothing can be sent without a provider; the ledger waits for one.
            *([sender] if self._bills else []),
            *self._consumers,
            self._make_closing(),
            self._make_settling(),
        )
        self.server = self._make_server(identity)

    def _make_server(self, identity: Link) -> Server:
        settings, rules = self._settings, {**RULES, **OPERATIONS}
        return Server(
            settings.bind_host,
            settings.grpc_port,
            self._make_servicers(),
            gate=auth.gate(settings, rules, self._clock, verifier(identity.channel)),
            bounds=settings.bounds,
            credentials=tls.server_credentials(settings),
            drain=settings.shutdown_drain_seconds,
            grace=settings.shutdown_grace_seconds,
        )

    def _make_consumers(self, bus: Bus, unit_of_work: UnitOfWork) -> Sequence[Consumer]:
        tenants, settings = TenantChanges(self._tenants), self._settings
        return (
            Consumer(bus, unit_of_work, TENANTS_CHANGED, NAME, tenants.handle, **settings.consuming),
            Consumer(
                bus,
                unit_of_work,
                USAGE_WINDOW,
                NAME,
                self._usage.handle,
                split=split_windows,
                **settings.consuming,
            ),
        )

    def _make_sender(self, unit_of_work: UnitOfWork) -> Sender:
        settings = self._settings
        return Sender(
            self._database,
            unit_of_work,
            self._provider,
            self._clock,
            concurrency=settings.send_concurrency,
            call_timeout=settings.stripe_timeout_seconds,
            backoff_seconds=settings.send_backoff_seconds,
            backoff_max_seconds=settings.send_backoff_max_seconds,
        )

    def _make_publishing(self, unit_of_work: UnitOfWork, lineage: Lineage, sender: Sender) -> Publishing:
        return Publishing(
            self._database,
            unit_of_work,
            self._tenants,
            self._provider,
            self._refreshing,
            self._settling,
            self._gaps,
            lineage,
            sender.wake,
            self._clock,
            wait_seconds=self._settings.publish_wait_seconds,
        )

    def _make_closing(self) -> Periodic:
        closing = Closing(
            self._database,
            self._tenants,
            self._publishing,
            self._freshness,
            self._gaps,
            self._clock,
            grace=self._close_grace,
        )
        work = closing.close_due if self._bills else closing.hold_due
        return Periodic("closing", self._settings.close_check_seconds, work)

    def _make_settling(self) -> Periodic:
        work = self._settling.settle_due if self._bills else self._settling.count
        return Periodic("settling", self._settings.settle_seconds, work)

    def _make_servicers(self) -> Sequence[Servicer]:
        invoices = InvoicesServicer(
            Invoices(self._database, self._tenants),
            Previews(self._database, self._tenants, self._provider, self._freshness),
            Explaining(self._database, self._tenants, self._aggregate, self._ingest),
            self._gaps,
            self._settings.trace_ui_url,
        )
        publications = PublicationsServicer(self._publishing, self._settling)
        return [
            (
                PRICES_SERVICE,
                prices_pb2_grpc.add_PricesServiceServicer_to_server,
                PricesServicer(self._prices, self._plans, self._deliveries),
            ),
            (
                INVOICES_SERVICE,
                invoices_pb2_grpc.add_InvoicesServiceServicer_to_server,
                invoices,
            ),
            (
                PUBLICATIONS_SERVICE,
                publications_pb2_grpc.add_PublicationsServiceServicer_to_server,
                publications,
            ),
            dead_letters_service(self._database, self._consumers),
        ]


def provider_of(settings: PublisherSettings, clock: Clock) -> BillingProvider:
    """The provider that the settings name."""
    if settings.stripe_api_key is None:
        return NoProvider()
    return StripeProvider(
        settings.stripe_api_key,
        api_base=settings.stripe_api_base,
        timeout=settings.stripe_timeout_seconds,
        clock=clock,
    )


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(PublisherSettings)
    run(NAME, settings, partial(Publisher, settings, SystemClock()))


if __name__ == "__main__":
    main()
