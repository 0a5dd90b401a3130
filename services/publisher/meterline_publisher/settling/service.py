"""Compares with the provider: its sums with the ledger, its final invoices with ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from meterline.calendar import Period, month_of
from meterline.clock import Clock, to_datetime
from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS
from meterline.errors import MeterlineError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.tenants import Tenant, TenantReplica
from meterline.transactions.unit_of_work import Transaction, UnitOfWork

from meterline_publisher.gaps import store as gaps_store
from meterline_publisher.gaps.rules import GapReason, NotBillableError
from meterline_publisher.invoices import store as invoices_store
from meterline_publisher.invoices.message import emit_changed
from meterline_publisher.invoices.rules import Invoice, InvoiceState, Line
from meterline_publisher.ledger import store as ledger_store
from meterline_publisher.ledger.rules.accounts import Account, account_of
from meterline_publisher.ledger.rules.ledger import agrees, scaled, unscaled
from meterline_publisher.ledger.rules.publications import Publication
from meterline_publisher.providers.port import ExternalInvoice, RejectedError
from meterline_publisher.providers.registry import Providers
from meterline_publisher.rating import service as rating_service
from meterline_publisher.rating.pricing import basis
from meterline_publisher.rating.rules.assessment import Assessment
from meterline_publisher.settling.rules import settled
from meterline_publisher.tenants.service import require_customer
from meterline_publisher.usage import store as usage_store
from meterline_publisher.usage.refreshing import Refreshing

log = logger()

# Invoices not final at the provider this long after their period need an operator.
_GIVE_UP_AFTER: Final = timedelta(days=45)
_AT_A_TIME: Final = 8
_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Comparison:
    """One meter: the aggregated usage, what the ledger sent, and the provider's sum (None: it does not know
    the meter). Unscaled."""

    meter: str
    usage: Decimal
    sent: Decimal
    provider: Decimal | None
    agrees: bool


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected usage at the provider under one event name; `usage` is unscaled."""

    meter: str
    event_name: str
    scale: int
    usage: Decimal


def _expected(assessments: Sequence[Assessment], rows: Sequence[Publication]) -> list[Expected]:
    """One for each event name of a price, and one with usage 0 for each name that only earlier rows have."""
    found = {
        one.rule.event_name: Expected(one.rule.meter, one.rule.event_name, one.rule.scale, one.usage.value)
        for one in assessments
        if one.rule.event_name
    }
    for row in rows:
        found.setdefault(row.event_name, Expected(row.meter, row.event_name, 0, Decimal(0)))
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The result of ReconcilePeriod; `invoice` is None if the period was never rated."""

    tenant: Tenant
    comparisons: Sequence[Comparison]
    invoice: Invoice | None
    lines: Sequence[Line]


class Settling:
    """Reads from the provider of each period, and stores the resulting states of invoices. A period that was
    sent in part is settled at the provider and customer it was sent to, even if its tenant has others now."""

    def __init__(
        self,
        database: Database,
        unit_of_work: UnitOfWork,
        tenants: TenantReplica,
        providers: Providers,
        refreshing: Refreshing,
        clock: Clock,
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._providers = providers
        self._refreshing = refreshing
        self._clock = clock

    async def reconcile(self, slug: str, at: datetime) -> Reconciliation:
        """Compares the period that contains `at` by aggregate's current usage, and settles its invoice if the
        provider's is final.

        Raises NotFoundError; FailedPreconditionError without a provider, a customer or prices; AbortedError
        while usage is being rebuilt; UnavailableError when aggregate or the provider does not answer.
        """
        tenant = await self._tenants.get(slug)
        period = month_of(at, tenant.zone)
        account = await self._account(tenant, period)
        self._providers.of(account.provider).require()
        if not account.customer:
            require_customer(tenant)
        async with self._database.connection([tenant.tenant_id]) as connection:
            rules = (await basis(connection, tenant, period)).rule_set.rules
        unknown = await self._refreshing.refresh(tenant, period, rules)
        async with self._database.connection([tenant.tenant_id]) as connection:
            priced = await basis(connection, tenant, period)
            # A billed meter is compared by its stored usage, even if it is unknown now.
            found = await rating_service.draft(connection, priced.without(unknown - priced.lines.keys()))
            rows = await ledger_store.of_period(connection, tenant.tenant_id, period.start)
        comparisons = await asyncio.gather(
            *(
                self._compare(tenant, period, account, expected)
                for expected in _expected(found.assessments, rows)
            )
        )
        stored = found.basis.invoice
        invoice = await self.settle(tenant, stored) if stored else None
        return Reconciliation(tenant, comparisons, invoice, list(found.basis.lines.values()))

    async def settle(self, tenant: Tenant, invoice: Invoice) -> Invoice:
        """Returns the invoice, updated from the provider's. Raises UnavailableError, and
        FailedPreconditionError when the provider does not know the customer or the subscription."""
        return await self._settle(await self._account(tenant, invoice.period), invoice)

    async def _settle(self, account: Account, invoice: Invoice) -> Invoice:
        provider, customer = self._providers.of(account.provider), account.customer
        try:
            external = await provider.find_invoice(customer, account.subscription, invoice.period)
        except RejectedError as error:
            raise NotBillableError(GapReason.CUSTOMER_UNKNOWN, f"customer {customer}", str(error)) from error
        return await self.apply(invoice, external) if external else invoice

    async def _account(self, tenant: Tenant, period: Period) -> Account:
        """Returns the account that the period is billed to."""
        name = self._providers.name(tenant.billing_provider)
        own = Account(name, tenant.external_customer_id, tenant.external_subscription_id)
        async with self._database.connection([tenant.tenant_id]) as connection:
            rows = await ledger_store.of_period(connection, tenant.tenant_id, period.start)
        return account_of(own, rows)

    async def apply(self, invoice: Invoice, external: ExternalInvoice) -> Invoice:
        """Stores the state that follows from the provider's invoice."""
        async with self._unit_of_work.begin([invoice.tenant_id]) as tx:
            # Under the lock, since usage may have been rated or sent in the meantime.
            current = await invoices_store.by_id_for_update(
                tx.connection, invoice.tenant_id, invoice.invoice_id
            )
            if current is None:
                return invoice
            lines = await invoices_store.lines(tx.connection, current.tenant_id, [current.invoice_id])
            after = settled(current, lines[current.invoice_id], external)
            if after == current:
                return current
            after = replace(after, version=current.version + 1)
            await invoices_store.upsert(tx.connection, after)
            emit_changed(tx, after)
            if InvoiceState(after.state).final:
                await self._note_late(tx, after)
            await tx.commit()
        if after.state == InvoiceState.DISPUTED:
            log.error(
                "invoice.disputed",
                invoice_id=str(after.invoice_id),
                total=str(after.total),
                external_total=str(after.external_total),
            )
        return after

    async def _note_late(self, tx: Transaction, final: Invoice) -> None:
        """Records usage that arrived between the last rating and the provider's final invoice. Usage that was
        held, because no provider was configured or the tenant had changed to another, is late from now on."""
        held = (GapReason.NO_BILLING_PROVIDER, GapReason.CUSTOMER_CHANGED)
        now = to_datetime(self._clock.now_us())
        await gaps_store.replace(tx.connection, final.tenant_id, final.period, [], held, now)
        known = await usage_store.of_period(tx.connection, final.tenant_id, final.period_start)
        windows = [(final.tenant_id, final.period_start, meter) for meter in known]
        await gaps_store.note_late(tx.connection, windows, final.period_start, now, self._providers.billed)

    async def settle_due(self) -> None:
        """Settles all invoices whose period has ended, and updates the metric of unsent rows."""
        now = to_datetime(self._clock.now_us())
        since = now - _GIVE_UP_AFTER
        after = (since, 0)
        while True:
            async with self._database.connection(ALL_TENANTS) as connection:
                page = await invoices_store.unsettled(connection, (since, now), after, _PAGE)
            for start in range(0, len(page), _AT_A_TIME):
                await asyncio.gather(*(self._try(invoice) for invoice in page[start : start + _AT_A_TIME]))
            if len(page) < _PAGE:
                break
            after = (page[-1].period_end, page[-1].tenant_id)
        await self.count()

    async def _try(self, invoice: Invoice) -> None:
        tenant = await self._tenants.find_by_id(invoice.tenant_id)
        if tenant is None:
            return
        try:
            account = await self._account(tenant, invoice.period)
            # An invoice of a provider that is not configured waits for it.
            if account.customer and self._providers.of(account.provider).capabilities.bills:
                await self._settle(account, invoice)
        except MeterlineError as error:
            log.warning("invoice.not_settled", invoice_id=str(invoice.invoice_id), error=str(error))

    async def _compare(
        self, tenant: Tenant, period: Period, account: Account, expected: Expected
    ) -> Comparison:
        provider = self._providers.of(account.provider)
        meter, scale, usage = expected.meter, expected.scale, expected.usage
        async with self._database.connection([tenant.tenant_id]) as connection:
            sent = await ledger_store.sent_total(
                connection, tenant.tenant_id, expected.event_name, period.start, account.provider
            )
        try:
            total = await provider.usage_total(account.customer, expected.event_name, period)
        except RejectedError as error:
            log.warning("reconcile.unknown_meter", meter=meter, code=error.code)
            return Comparison(meter, usage, unscaled(sent, scale), None, False)
        same = scaled(usage, scale) == sent and agrees(sent, total, provider.capabilities)
        return Comparison(meter, usage, unscaled(sent, scale), unscaled(total, scale), same)

    async def count(self) -> None:
        """Updates the metric of unsent rows."""
        async with self._database.connection(ALL_TENANTS) as connection:
            waiting = await ledger_store.waiting_by_state(connection)
        for state in ("pending", "ambiguous", "rejected"):
            metrics.PUBLICATIONS.labels(state).set(waiting.get(state, 0))
