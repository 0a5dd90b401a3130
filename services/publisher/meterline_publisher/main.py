"""Connects the parts of the publisher and runs the service."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from meterline import config
from meterline.bus.subjects import TENANTS_CHANGED, USAGE_WINDOW
from meterline.clock import Clock, SystemClock
from meterline.rpc.server import service
from meterline.service.platform import Platform
from meterline.service.run import run
from meterline.tenants import TenantReplica
from meterline_protos.publisher.v1 import invoices_pb2, prices_pb2, publications_pb2

from meterline_publisher.closing.job import Closing
from meterline_publisher.explain.api import ExplanationsServicer
from meterline_publisher.explain.lineage import Lineage
from meterline_publisher.explain.service import Explaining
from meterline_publisher.gaps.api import GapsServicer
from meterline_publisher.gaps.service import Gaps
from meterline_publisher.invoices.api import StoredInvoicesServicer
from meterline_publisher.invoices.service import Invoices
from meterline_publisher.ledger.sender import Sender
from meterline_publisher.peers import Aggregate, Ingest
from meterline_publisher.previews.api import PreviewsServicer
from meterline_publisher.previews.service import Previews
from meterline_publisher.prices.api import PricesServicer
from meterline_publisher.prices.deliveries import Deliveries
from meterline_publisher.prices.plans import Plans
from meterline_publisher.prices.service import Prices
from meterline_publisher.providers.port import BillingProvider
from meterline_publisher.providers.registry import Providers
from meterline_publisher.providers.stripe.capabilities import STRIPE
from meterline_publisher.providers.stripe.provider import StripeProvider
from meterline_publisher.publishing.api import PublicationsServicer
from meterline_publisher.publishing.service import Publishing
from meterline_publisher.settings import PublisherSettings
from meterline_publisher.settling.service import Settling
from meterline_publisher.tenants.service import TenantChanges
from meterline_publisher.usage.freshness import Freshness
from meterline_publisher.usage.refreshing import Refreshing
from meterline_publisher.usage.replica import UsageWindows, split_windows

NAME = "publisher"


class InvoicesServicer(StoredInvoicesServicer, PreviewsServicer, ExplanationsServicer, GapsServicer):
    """All RPCs of InvoicesService; each capability implements its own ones."""

    def __init__(
        self, invoices: Invoices, previews: Previews, explaining: Explaining, gaps: Gaps, trace_ui: str
    ) -> None:
        StoredInvoicesServicer.__init__(self, invoices)
        PreviewsServicer.__init__(self, previews)
        ExplanationsServicer.__init__(self, explaining, trace_ui)
        GapsServicer.__init__(self, gaps)


class Publisher(Platform):
    """The parts of one process. `providers` replaces those that the settings name."""

    def __init__(self, settings: PublisherSettings, clock: Clock, providers: Providers | None = None) -> None:
        super().__init__(NAME, settings, clock)
        database, unit_of_work = self.database, self.unit_of_work
        providers = self.add(providers or providers_of(settings, clock))
        tenants = TenantReplica(database)
        identity = self.link("identity", settings.identity_address)
        aggregate = self.add(Aggregate(settings.aggregate_address, self.caller))
        ingest = self.add(Ingest(settings.ingest_address, self.caller))
        grace = timedelta(seconds=settings.close_grace_seconds)
        usage = UsageWindows(clock, grace, providers.billed)
        freshness = Freshness(aggregate, settings.freshness_wait_seconds)
        refreshing = Refreshing(unit_of_work, freshness, usage)
        gaps = Gaps(database, unit_of_work, tenants, clock)
        settling = Settling(database, unit_of_work, tenants, providers, refreshing, clock)
        lineage = self.add(Lineage(aggregate, ingest))
        # One for each, so that none waits for the answers of another's provider.
        self._senders = [self._sender(settings, provider) for provider in providers]
        publishing = Publishing(
            database,
            unit_of_work,
            tenants,
            providers,
            refreshing,
            settling,
            gaps,
            lineage,
            self._wake_senders,
            clock,
            wait_seconds=settings.publish_wait_seconds,
        )
        closing = Closing(
            database, tenants, publishing, freshness, gaps, clock, grace=grace, billed=providers.billed
        )
        # Rows of a provider that is not configured wait for it.
        for sender in self._senders:
            self.add(sender)
        self.consume(TENANTS_CHANGED, TenantChanges(tenants).handle)
        self.consume(USAGE_WINDOW, usage.handle, split=split_windows)
        self.every(settings.close_check_seconds, "closing", closing.close_due)
        self.every(
            settings.settle_seconds, "settling", settling.settle_due if providers.bills else settling.count
        )
        prices = PricesServicer(
            Prices(database, unit_of_work, aggregate, tenants),
            Plans(database, unit_of_work, clock),
            Deliveries(database, unit_of_work, aggregate),
        )
        invoices = InvoicesServicer(
            Invoices(database, tenants),
            Previews(database, tenants, providers, freshness),
            Explaining(database, tenants, aggregate, ingest),
            gaps,
            settings.trace_ui_url,
        )
        self.serve(
            service(prices_pb2, "PricesService", prices),
            service(invoices_pb2, "InvoicesService", invoices),
            service(publications_pb2, "PublicationsService", PublicationsServicer(publishing, settling)),
            api_keys=identity,
        )

    def _wake_senders(self) -> None:
        for sender in self._senders:
            sender.wake()

    def _sender(self, settings: PublisherSettings, provider: BillingProvider) -> Sender:
        return Sender(
            self.database,
            self.unit_of_work,
            provider,
            self.clock,
            concurrency=settings.send_concurrency,
            call_timeout=settings.stripe_timeout_seconds,
            backoff_seconds=settings.send_backoff_seconds,
            backoff_max_seconds=settings.send_backoff_max_seconds,
        )


def providers_of(settings: PublisherSettings, clock: Clock) -> Providers:
    """The providers that the settings name. Tenants that chose none are Stripe's."""
    configured: list[BillingProvider] = []
    if settings.stripe_api_key is not None:
        stripe = StripeProvider(
            settings.stripe_api_key,
            api_base=settings.stripe_api_base,
            timeout=settings.stripe_timeout_seconds,
            clock=clock,
        )
        configured.append(stripe)
    return Providers(configured, default=STRIPE.name)


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(PublisherSettings)
    run(NAME, settings, partial(Publisher, settings, SystemClock()))


if __name__ == "__main__":
    main()
