"""Publishes a period: rates its current usage, writes differences to the ledger, and wakes the sender."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from meterline.calendar import Period, month_of
from meterline.clock import Clock, to_datetime
from meterline.db.pool import Database
from meterline.deadline import time_left
from meterline.errors import FailedPreconditionError, MeterlineError
from meterline.telemetry.tracing import tracer
from meterline.tenants import Tenant, TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_publisher.explain.lineage import Lineage
from meterline_publisher.gaps.rules import Gap, GapReason, NotBillableError
from meterline_publisher.gaps.service import Gaps, tell
from meterline_publisher.invoices import store as invoices_store
from meterline_publisher.invoices.rules import Invoice, InvoiceState, Line
from meterline_publisher.ledger import store as ledger_store
from meterline_publisher.ledger.rules.publications import Publication, PublicationState
from meterline_publisher.providers.port import BillingProvider, RejectedError
from meterline_publisher.providers.registry import Providers
from meterline_publisher.rating import service as rating_service
from meterline_publisher.rating.pricing import basis
from meterline_publisher.rating.service import Circumstances, Rated
from meterline_publisher.settling.service import Settling
from meterline_publisher.tenants.service import require_billed, require_customer
from meterline_publisher.usage.refreshing import Refreshing

_POLL_SECONDS: Final = 0.05
# Reserved within the caller's deadline for answering after the wait.
_MARGIN_SECONDS: Final = 0.5

_UNFINISHED: Final = (PublicationState.PENDING, PublicationState.AMBIGUOUS)


@dataclass(frozen=True, slots=True)
class Published:
    """An invoice after publishing, with the period's rows of the ledger."""

    tenant: Tenant
    invoice: Invoice
    lines: Sequence[Line]
    publications: Sequence[Publication]


class Publishing:
    """Reads use `database`, changes use `unit_of_work`; `wake_sender` announces new rows of the ledger."""

    def __init__(
        self,
        database: Database,
        unit_of_work: UnitOfWork,
        tenants: TenantReplica,
        providers: Providers,
        refreshing: Refreshing,
        settling: Settling,
        gaps: Gaps,
        lineage: Lineage,
        wake_sender: Callable[[], None],
        clock: Clock,
        *,
        wait_seconds: float,
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._providers = providers
        self._refreshing = refreshing
        self._settling = settling
        self._gaps = gaps
        self._lineage = lineage
        self._wake_sender = wake_sender
        self._clock = clock
        self._wait_seconds = wait_seconds

    async def publish(self, slug: str, at: datetime) -> Published:
        """Rates the period that contains `at`, and waits a limited time for its usage to be sent.

        Raises NotFoundError; FailedPreconditionError without a provider, a customer or prices, before the
        first billed day, before the period begins, and once the provider's invoice is final; AbortedError
        while usage is being rebuilt; UnavailableError. Idempotent: what was sent is never sent again.
        """
        tenant = await self._tenants.get(slug)
        # Before `rate`, which stores a gap: gaps are for due periods, not for calls that cannot succeed.
        self._providers.of(tenant.billing_provider).require()
        period = month_of(at, tenant.zone)
        rated = await self.rate(tenant, period, retry_rejected=True)
        publications = await self._sent(rated.invoice)
        async with self._database.connection([tenant.tenant_id]) as connection:
            invoice = await invoices_store.by_id(connection, tenant.tenant_id, rated.invoice.invoice_id)
            lines = await invoices_store.lines(connection, tenant.tenant_id, [rated.invoice.invoice_id])
        return Published(tenant, invoice or rated.invoice, lines[rated.invoice.invoice_id], publications)

    async def rate(self, tenant: Tenant, period: Period, *, retry_rejected: bool) -> Rated:
        """Rates a period and passes differences to the sender; raises as `publish`. Stores a gap if the
        period cannot be billed."""
        try:
            return await self._rate(tenant, period, retry_rejected=retry_rejected)
        except NotBillableError as error:
            await self._gaps.note(tenant, period, error.gaps)
            raise
        except MeterlineError:
            raise
        except Exception as error:
            await self._gaps.note(tenant, period, [Gap("", GapReason.FAULT, type(error).__name__)])
            raise

    async def _rate(self, tenant: Tenant, period: Period, *, retry_rejected: bool) -> Rated:
        require_billed(tenant, period)
        provider = self._providers.of(tenant.billing_provider)
        provider.require()
        require_customer(tenant)
        async with self._database.connection([tenant.tenant_id]) as connection:
            before = await basis(connection, tenant, period)
        unknown = await self._refreshing.refresh(tenant, period, before.rule_set.rules)
        known = before.without(unknown)
        if not known.rule_set.rules:
            # Raises the error that says why; the provider is not needed for that.
            async with self._database.connection([tenant.tenant_id]) as connection:
                await rating_service.draft(connection, known)
        provider_now = await self._require_open(tenant, provider, period, before.invoice)
        circumstances = Circumstances(
            now=to_datetime(self._clock.now_us()),
            provider_now=provider_now,
            provider_decimals=provider.decimals(tenant.currency),
            provider=provider.capabilities,
            retry_rejected=retry_rejected,
            fresh_meters={rule.meter for rule in before.rule_set.rules if rule.needs_usage},
            unknown_meters=unknown,
        )
        with tracer().start_as_current_span("rate period"):
            async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
                rated = await rating_service.store(tx, tenant, period, circumstances)
                await tx.commit()
            tell(tenant, period.start, rated.gaps)
            if rated.changed:
                self._lineage.submit(tenant.slug, rated.invoice, rated.changed)
        if rated.added:
            self._wake_sender()
        return rated

    async def page(self, slug: str, before: int, limit: int) -> tuple[Tenant, list[Publication]]:
        """At most `limit` rows of the ledger with a `seq` below `before`, newest first."""
        tenant = await self._tenants.get(slug)
        async with self._database.connection([tenant.tenant_id]) as connection:
            return tenant, await ledger_store.page(connection, tenant.tenant_id, before, limit)

    async def _require_open(
        self, tenant: Tenant, provider: BillingProvider, period: Period, invoice: Invoice | None
    ) -> datetime:
        """Returns the provider's time. Raises if the period has not begun, or if its invoice is final."""
        await self._require_account(tenant, provider, period, invoice)
        customer = tenant.external_customer_id
        try:
            now, external = await asyncio.gather(
                provider.now(customer),
                provider.find_invoice(customer, tenant.external_subscription_id, period),
            )
        except RejectedError as error:
            raise NotBillableError(GapReason.CUSTOMER_UNKNOWN, f"customer {customer}", str(error)) from error
        if external is not None and external.final:
            if invoice is None:
                raise NotBillableError(
                    GapReason.LATE_USAGE,
                    f"invoice {external.invoice_id}",
                    "is final at the provider, and the period was never rated before",
                )
            await self._settling.apply(invoice, external)
            raise FailedPreconditionError(
                f"invoice {external.invoice_id}",
                "is final at the provider; usage that came since shows in ReconcilePeriod",
                "INVOICE_IS_FINAL",
            )
        if now < period.start:
            raise FailedPreconditionError(
                f"period {period.start.isoformat()}",
                f"has not begun at the provider, where it is {now.isoformat()}",
                "PERIOD_NOT_BEGUN",
            )
        return now

    async def _require_account(
        self, tenant: Tenant, provider: BillingProvider, period: Period, invoice: Invoice | None
    ) -> None:
        """Checked before a call to the tenant's provider, which does not know a period billed elsewhere."""
        async with self._database.connection([tenant.tenant_id]) as connection:
            rows = await ledger_store.of_period(connection, tenant.tenant_id, period.start)
        try:
            rating_service.require_account(tenant, provider.capabilities.name, rows)
        except NotBillableError as error:
            if invoice is not None and InvoiceState(invoice.state).final:
                raise rating_service.final_error(invoice) from error
            raise

    async def _sent(self, invoice: Invoice) -> list[Publication]:
        """The period's rows, once none is unfinished or the wait is over."""
        left = time_left.get()
        caller = left() if left else None
        wait = self._wait_seconds if caller is None else min(self._wait_seconds, caller - _MARGIN_SECONDS)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            async with self._database.connection([invoice.tenant_id]) as connection:
                rows = await ledger_store.of_period(connection, invoice.tenant_id, invoice.period_start)
            if loop.time() >= deadline or not any(row.state in _UNFINISHED for row in rows):
                return rows
            await asyncio.sleep(_POLL_SECONDS)
