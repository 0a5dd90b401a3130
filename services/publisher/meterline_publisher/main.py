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
from meterline_publisher.gaps.rules import GapReason
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
from meterline_publisher.providers.none import NoProvider
from meterline_publisher.providers.port import BillingProvider
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
    """The parts of one process. `provider` replaces the provider that the settings name."""

    def __init__(
        self, settings: PublisherSettings, clock: Clock, provider: BillingProvider | None = None
    ) -> None:
        super().__init__(NAME, settings, clock)
        database, unit_of_work = self.database, self.unit_of_work
        provider = self.add(provider or provider_of(settings, clock))
        bills = provider.capabilities.bills
        tenants = TenantReplica(database)
        identity = self.link("identity", settings.identity_address)
        aggregate = self.add(Aggregate(settings.aggregate_address, self.caller))
        ingest = self.add(Ingest(settings.ingest_address, self.caller))
        grace = timedelta(seconds=settings.close_grace_seconds)
        afterwards = GapReason.LATE_USAGE if bills else GapReason.NO_BILLING_PROVIDER
        usage = UsageWindows(clock, grace, afterwards)
        freshness = Freshness(aggregate, settings.freshness_wait_seconds)
        refreshing = Refreshing(unit_of_work, freshness, usage)
        gaps = Gaps(database, unit_of_work, tenants, clock)
        settling = Settling(database, unit_of_work, tenants, provider, refreshing, clock)
        lineage = self.add(Lineage(aggregate, ingest))
        sender = self._sender(settings, provider)
        publishing = Publishing(
            database,
            unit_of_work,
            tenants,
            provider,
            refreshing,
            settling,
            gaps,
            lineage,
            sender.wake,
            clock,
            wait_seconds=settings.publish_wait_seconds,
        )
        closing = Closing(database, tenants, publishing, freshness, gaps, clock, grace=grace)
        if bills:
            # Without a provider the sender does not run; the rows of the ledger wait for one.
            self.add(sender)
        self.consume(TENANTS_CHANGED, TenantChanges(tenants).handle)
        self.consume(USAGE_WINDOW, usage.handle, split=split_windows)
        self.every(settings.close_check_seconds, "closing", closing.close_due if bills else closing.hold_due)
        self.every(settings.settle_seconds, "settling", settling.settle_due if bills else settling.count)
        prices = PricesServicer(
            Prices(database, unit_of_work, aggregate, tenants),
            Plans(database, unit_of_work, clock),
            Deliveries(database, unit_of_work, aggregate),
        )
        invoices = InvoicesServicer(
            Invoices(database, tenants),
            Previews(database, tenants, provider, freshness),
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
