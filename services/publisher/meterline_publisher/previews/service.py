"""Previews invoices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from meterline.calendar import month_of
from meterline.db.pool import Database
from meterline.errors import InvalidArgumentError
from meterline.tenants import Tenant, TenantReplica

from meterline_publisher.gaps.rules import Gap
from meterline_publisher.invoices.rules import NO_ID, Invoice, InvoiceState, Line
from meterline_publisher.providers.registry import Providers
from meterline_publisher.rating import service as rating_service
from meterline_publisher.rating.pricing import basis
from meterline_publisher.rating.rules.lines import to_line
from meterline_publisher.rating.rules.rating import QuantityError
from meterline_publisher.tenants.service import require_billed
from meterline_publisher.usage.freshness import Freshness


@dataclass(frozen=True, slots=True)
class Preview:
    """A previewed invoice. `final`: the stored invoice of the period, if it is final. `left_out`: the meters
    without a line, with reasons."""

    tenant: Tenant
    invoice: Invoice
    lines: Sequence[Line]
    final: Invoice | None
    left_out: Sequence[Gap]


class Previews:
    """Everything here only reads."""

    def __init__(
        self, database: Database, tenants: TenantReplica, providers: Providers, freshness: Freshness
    ) -> None:
        self._database = database
        self._tenants = tenants
        self._providers = providers
        self._freshness = freshness

    async def preview(self, slug: str, at: datetime, deltas: Mapping[str, Decimal]) -> Preview:
        """Rates the period that contains `at` with aggregate's current usage plus `deltas`, by meter. All ids
        of the result are zero.

        Raises NotFoundError; FailedPreconditionError when nothing can be billed, or the period is before the
        first billed day; AbortedError while usage is being rebuilt; UnavailableError when aggregate does not
        answer; InvalidArgumentError for values with too many digits.
        """
        tenant = await self._tenants.get(slug)
        period = month_of(at, tenant.zone)
        require_billed(tenant, period)
        async with self._database.connection([tenant.tenant_id]) as connection:
            priced = await basis(connection, tenant, period)
        pulled = await self._freshness.pull(tenant, period, priced.rule_set.rules)
        priced = priced.without(pulled.unknown)
        async with self._database.connection([tenant.tenant_id]) as connection:
            try:
                found = await rating_service.draft(connection, priced, pulled.windows, deltas)
            except QuantityError as error:
                raise InvalidArgumentError("changes", str(error)) from error
        invoice = Invoice(
            tenant_id=tenant.tenant_id,
            invoice_id=NO_ID,
            plan=priced.plan,
            currency=tenant.currency,
            period_start=priced.period.start,
            period_end=priced.period.end,
            state=InvoiceState.OPEN.value,
            total=found.total,
            version=0,
            rule_set_id=priced.rule_set.rule_set_id,
            external_invoice_id="",
            external_total=None,
            trace="",
        )
        decimals = self._providers.of(tenant.billing_provider).decimals(tenant.currency)
        lines = [to_line(assessment, invoice, provider_decimals=decimals) for assessment in found.assessments]
        stored = priced.invoice
        final = stored if stored is not None and InvoiceState(stored.state).final else None
        return Preview(tenant, invoice, lines, final, found.unbilled)
