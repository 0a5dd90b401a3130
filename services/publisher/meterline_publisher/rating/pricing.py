"""Chooses the rules that price a period: before reading its usage, and again under the rating's lock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from meterline.calendar import Period
from meterline.db.pool import Connection
from meterline.tenants import Tenant

from meterline_publisher.gaps.rules import Gap, GapReason, NotBillableError
from meterline_publisher.invoices import store as invoices_store
from meterline_publisher.invoices.rules import Invoice, InvoiceState, Line
from meterline_publisher.ledger import store as ledger_store
from meterline_publisher.prices.rules.rule_sets import Rule, RuleSet, choose, of_final_invoice
from meterline_publisher.prices.rules.versions import VersionError
from meterline_publisher.prices.store import prices
from meterline_publisher.rating.rules.sent_settings import as_sent, bound
from meterline_publisher.rating.rules.unbilled import billable
from meterline_publisher.tenants import store as tenants_store


@dataclass(frozen=True, slots=True)
class Basis:
    """The rules of a period, with the stored invoice.

    catalogue: all versions of the plan's prices, from which `rule_set` was chosen
    lines: the stored ones by meter
    left_out: meters of the plan that cannot be billed and are not in `rule_set`, without their quantities
    """

    tenant: Tenant
    period: Period
    plan: str
    catalogue: Sequence[Rule]
    invoice: Invoice | None
    lines: Mapping[str, Line]
    rule_set: RuleSet
    left_out: Sequence[Gap] = ()

    def without(self, unknown: Collection[str]) -> Basis:
        """The same without the rules of these meters, which do not exist."""
        rule_set, gaps = billable(self.rule_set, self.tenant.currency, unknown)
        return replace(self, rule_set=rule_set, left_out=[*self.left_out, *gaps])


async def basis(connection: Connection, tenant: Tenant, period: Period) -> Basis:
    """The rules that price a period, from the current catalogue: those of the plan that the tenant had at the
    period's start, in the versions in force then in the tenant's time zone. Earlier ratings of the period do
    not affect the result, except that a final invoice keeps its rules.

    Keeps versions of the plan from being put or withdrawn until the transaction ends. Raises NotBillableError
    when nothing is priced. Meters priced in another currency than the tenant's are returned in `left_out`.
    """
    invoice = await invoices_store.by_period(connection, tenant.tenant_id, period.start)
    lines: Mapping[str, Line] = {}
    if invoice is not None:
        stored = await invoices_store.lines(connection, tenant.tenant_id, [invoice.invoice_id])
        lines = {line.meter: line for line in stored[invoice.invoice_id]}
    final = invoice is not None and InvoiceState(invoice.state).final
    plan = (
        invoice.plan
        if invoice and final
        else await tenants_store.at(connection, tenant.tenant_id, period.start)
    )
    if not plan:
        raise NotBillableError(GapReason.NO_PLAN, f"tenant {tenant.slug}", "has never had a plan")
    await prices.lock_shared(connection, plan)
    catalogue = await prices.of_plan(connection, plan)
    try:
        rule_set = (
            of_final_invoice(catalogue, _versions(lines))
            if final
            else choose(catalogue, period.start, tenant.zone)
        )
    except VersionError as error:
        raise NotBillableError(GapReason.FAULT, f"plan {plan}", str(error)) from error
    left_out: Sequence[Gap] = ()
    if not final:
        _require_prices(plan, catalogue, rule_set, period)
        rule_set, left_out = billable(rule_set, tenant.currency)
    sent = await ledger_store.of_period(connection, tenant.tenant_id, period.start) if lines else []
    rule_set = as_sent(rule_set, lines, bound(invoice, plan, lines.keys(), sent))
    return Basis(tenant, period, plan, catalogue, invoice, lines, rule_set, left_out)


def _versions(lines: Mapping[str, Line]) -> dict[str, int]:
    return {meter: line.price_version for meter, line in lines.items()}


def _require_prices(plan: str, catalogue: Sequence[Rule], rule_set: RuleSet, period: Period) -> None:
    if not catalogue:
        raise NotBillableError(GapReason.PLAN_UNKNOWN, f"plan {plan}", "has no prices")
    if not rule_set.rules:
        raise NotBillableError(
            GapReason.PRICE_NOT_IN_FORCE,
            f"plan {plan}",
            f"has no price in force at {period.start.isoformat()}",
        )
