"""Which rules price a period of a tenant: asked before its usage is, and again under the lock of a rating."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meterline.db.pool import Connection
from meterline.tenants import Tenant

from meterline_publisher.domain.gaps import GapReason, NotBillableError
from meterline_publisher.domain.periods import Period
from meterline_publisher.domain.records import Invoice, InvoiceState, Line
from meterline_publisher.domain.rule_sets import Rule, RuleSet, choose, kept
from meterline_publisher.domain.versions import VersionError
from meterline_publisher.repository import invoices, plans, prices


@dataclass(frozen=True, slots=True)
class Basis:
    """The rules of a period, and what is stored of it.

    catalogue: all versions of the plan's prices, from which `rule_set` was chosen
    lines: the stored ones by meter
    """

    tenant: Tenant
    period: Period
    plan: str
    catalogue: Sequence[Rule]
    invoice: Invoice | None
    lines: Mapping[str, Line]
    rule_set: RuleSet


async def basis(connection: Connection, tenant: Tenant, period: Period) -> Basis:
    """The rules that price a period: of the plan that the tenant had at its start, the versions in force
    then, as the catalogue is now. Nothing depends on who rated the period before. A final invoice keeps its
    own.

    Raises NotBillableError when nothing is priced, or not in the tenant's currency.
    """
    invoice = await invoices.by_period(connection, tenant.tenant_id, period.start)
    lines: Mapping[str, Line] = {}
    if invoice is not None:
        stored = await invoices.lines(connection, tenant.tenant_id, [invoice.invoice_id])
        lines = {line.meter: line for line in stored[invoice.invoice_id]}
    final = invoice is not None and InvoiceState(invoice.state).final
    plan = invoice.plan if invoice and final else await plans.at(connection, tenant.tenant_id, period.start)
    if not plan:
        raise NotBillableError(GapReason.NO_PLAN, f"tenant {tenant.slug}", "has never had a plan")
    catalogue = await prices.of_plan(connection, plan)
    try:
        rule_set = kept(catalogue, _versions(lines)) if final else choose(catalogue, period.start)
    except VersionError as error:
        raise NotBillableError(GapReason.FAULT, f"plan {plan}", str(error)) from error
    if not final:
        _require_prices(plan, catalogue, rule_set, period)
        _require_currency(rule_set, tenant)
    return Basis(tenant, period, plan, catalogue, invoice, lines, rule_set)


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


def _require_currency(rule_set: RuleSet, tenant: Tenant) -> None:
    for rule in rule_set.rules:
        code = rule.version.price.currency.code
        if code != tenant.currency:
            raise NotBillableError(
                GapReason.CURRENCY_DIFFERS,
                f"price {rule.rule_id}/{rule.version.version}",
                f"is in {code}, and {tenant.slug} is billed in {tenant.currency}",
            )
