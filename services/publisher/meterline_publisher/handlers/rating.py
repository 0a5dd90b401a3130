"""Rating a period: one snapshot of rules, one calculation a line, and the differences that follow.

Everything that rating writes is written in one transaction under a lock of the tenant, so that several
ratings of a period, however close together, send what one of them would have sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from meterline.db.pool import Connection
from meterline.db.unit_of_work import Transaction
from meterline.errors import FailedPreconditionError
from meterline.ids import new_id
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.tenants import Tenant

from meterline_publisher import events, traces
from meterline_publisher.domain import ledger as rules
from meterline_publisher.domain.assessment import Assessment, assess, changed_by
from meterline_publisher.domain.deliveries import as_sent, redirected
from meterline_publisher.domain.identifiers import meter_event_identifier
from meterline_publisher.domain.invoice import totals
from meterline_publisher.domain.ledger import PublicationState
from meterline_publisher.domain.lines import to_line
from meterline_publisher.domain.money import Money, currency
from meterline_publisher.domain.periods import Period
from meterline_publisher.domain.records import Invoice, InvoiceState, Line, Publication
from meterline_publisher.domain.rule_sets import RuleSet, choose
from meterline_publisher.domain.unbillable import UnbillableMeterError, without_unbillable
from meterline_publisher.domain.versions import VersionError
from meterline_publisher.repository import invoices, ledger, prices, usage

log = logger()

NOTHING_ELSE: Final[Mapping[str, Decimal]] = {}
ALL_KNOWN: Final[Mapping[str, UnbillableMeterError]] = {}


@dataclass(frozen=True, slots=True)
class Draft:
    """What rating makes of a period now, and what is stored of it: `lines` are the stored ones by meter."""

    tenant: Tenant
    period: Period
    plan: str
    invoice: Invoice | None
    lines: Mapping[str, Line]
    rule_set: RuleSet
    assessments: Sequence[Assessment]
    unbillable: Mapping[str, UnbillableMeterError]

    @property
    def total(self) -> Decimal:
        paid_in = currency(self.tenant.currency)
        return totals(found.line for found in self.assessments).get(paid_in, Money(paid_in, 0)).amount


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a rating has to know of the world outside: two clocks, how the provider rounds, and which meters
    of the plan do not exist."""

    now: datetime
    provider_now: datetime
    provider_decimals: int
    retry_rejected: bool
    unknown_meters: Mapping[str, UnbillableMeterError]


@dataclass(frozen=True, slots=True)
class Rated:
    """The stored outcome. `changed` are the lines that were calculated anew, `added` rows of the ledger."""

    invoice: Invoice
    changed: Sequence[Line]
    added: int


async def draft(
    connection: Connection,
    tenant: Tenant,
    period: Period,
    deltas: Mapping[str, Decimal] = NOTHING_ELSE,
    unknown_meters: Mapping[str, UnbillableMeterError] = ALL_KNOWN,
) -> Draft:
    """Rates a period without storing anything, also if the values of some meters were others by `deltas`.

    The plan and the versions of an invoice that exists are kept, whatever was changed since. Meters that
    cannot be billed are left out and said. Raises FailedPreconditionError when nothing is priced, or nothing
    that can be billed.
    """
    invoice = await invoices.by_period(connection, tenant.tenant_id, period.start)
    lines: Mapping[str, Line] = {}
    if invoice is not None:
        stored = await invoices.lines(connection, tenant.tenant_id, [invoice.invoice_id])
        lines = {line.meter: line for line in stored[invoice.invoice_id]}
    plan = invoice.plan if invoice else tenant.plan
    rule_set = await _rule_set(connection, plan, period, lines, tenant.zone)
    rule_set, unbillable = without_unbillable(rule_set, tenant.currency, unknown_meters)
    if not rule_set.rules:
        raise next(iter(unbillable.values()))
    sent = await ledger.of_period(connection, tenant.tenant_id, period.start) if lines else []
    rule_set = as_sent(rule_set, lines, sent)
    known = await usage.of_period(connection, tenant.tenant_id, period.start)
    assessments = assess(rule_set, tenant.slug, period, changed_by(known, deltas))
    return Draft(tenant, period, plan, invoice, lines, rule_set, assessments, unbillable)


async def store(tx: Transaction, tenant: Tenant, period: Period, circumstances: Circumstances) -> Rated:
    """Rates a period and writes what differs from what is stored; nothing, when nothing does.

    Raises as `draft`, and FailedPreconditionError for an invoice that is final.
    """
    connection = tx.connection
    await invoices.lock_tenant(connection, tenant.tenant_id)
    found = await draft(connection, tenant, period, unknown_meters=circumstances.unknown_meters)
    before = await _locked(connection, found) or _new_invoice(found)
    if InvoiceState(before.state).final:
        raise FailedPreconditionError(f"invoice {before.invoice_id}", "is final at the provider")
    changed = [
        (assessment, _line(found, before, assessment, circumstances))
        for assessment in found.assessments
        if _is_new(found.lines.get(assessment.rule.meter), assessment)
    ]
    invoice = replace(before, total=found.total, rule_set_id=found.rule_set.rule_set_id)
    if changed:
        invoice = replace(invoice, trace=traces.current())
        await prices.insert_rule_set(connection, found.rule_set)
        await invoices.upsert(connection, invoice)
    for assessment, line in changed:
        await invoices.insert_calculation(
            connection, line, invoice, found.rule_set, assessment, circumstances.now
        )
        await invoices.upsert_line(connection, line)
    moved = _redirected(found)
    for line in moved:
        await invoices.upsert_line(connection, line)
    lines = dict(found.lines) | {line.meter: line for line in (*moved, *(line for _, line in changed))}
    added = await _extend_ledger(connection, found, invoice, lines, circumstances)
    complete = await ledger.is_complete(connection, tenant.tenant_id, invoice.invoice_id)
    state = InvoiceState.PUBLISHED if complete else InvoiceState.OPEN
    if changed or state != before.state:
        invoice = replace(invoice, state=state.value, version=before.version + 1)
        await invoices.upsert(connection, invoice)
        events.emit_changed(tx, invoice)
    return Rated(invoice, [line for _, line in changed], added)


async def _locked(connection: Connection, found: Draft) -> Invoice | None:
    """The stored invoice, locked: the sender changes it too, when it has sent the last row."""
    if found.invoice is None:
        return None
    return await invoices.by_id_for_update(connection, found.tenant.tenant_id, found.invoice.invoice_id)


async def _rule_set(
    connection: Connection, plan: str, period: Period, lines: Mapping[str, Line], zone: ZoneInfo
) -> RuleSet:
    await prices.lock_shared(connection, plan)
    catalogue = await prices.of_plan(connection, plan)
    kept = {meter: line.price_version for meter, line in lines.items()}
    try:
        rule_set = choose(catalogue, period.start, kept, zone)
    except VersionError as error:
        raise FailedPreconditionError(f"plan {plan}", str(error)) from error
    if not rule_set.rules:
        raise FailedPreconditionError(f"plan {plan}", f"has no price in force at {period.start.isoformat()}")
    return rule_set


def _new_invoice(found: Draft) -> Invoice:
    return Invoice(
        tenant_id=found.tenant.tenant_id,
        invoice_id=new_id(),
        plan=found.plan,
        currency=found.tenant.currency,
        period_start=found.period.start,
        period_end=found.period.end,
        state=InvoiceState.OPEN.value,
        total=found.total,
        version=0,
        rule_set_id=found.rule_set.rule_set_id,
        external_invoice_id="",
        external_total=None,
        trace="",
    )


def _is_new(stored: Line | None, assessment: Assessment) -> bool:
    """The digest covers the usage, its revision and the rule, so the same digest is the same amount."""
    return stored is None or stored.inputs_digest != assessment.inputs_digest


def _redirected(found: Draft) -> list[Line]:
    """Lines whose amount stands and whose usage goes to the provider in another way than they say."""
    standing = [
        (found.lines[assessment.rule.meter], assessment)
        for assessment in found.assessments
        if not _is_new(found.lines.get(assessment.rule.meter), assessment)
    ]
    return [moved for line, assessment in standing if (moved := redirected(line, assessment)) != line]


def _line(found: Draft, invoice: Invoice, assessment: Assessment, circumstances: Circumstances) -> Line:
    stored = found.lines.get(assessment.rule.meter)
    return to_line(
        assessment,
        invoice,
        line_id=stored.line_id if stored else new_id(),
        calculation_id=new_id(),
        provider_decimals=circumstances.provider_decimals,
    )


async def _extend_ledger(
    connection: Connection,
    found: Draft,
    invoice: Invoice,
    lines: Mapping[str, Line],
    circumstances: Circumstances,
) -> int:
    """Writes a row for every line whose target the ledger does not come to; returns how many."""
    rows = await ledger.of_period(connection, invoice.tenant_id, invoice.period_start)
    _require_customer(found.tenant, rows)
    added = 0
    for line in lines.values():
        if line.billing_target is None:
            continue
        mine = [row for row in rows if row.meter == line.meter]
        missing = rules.difference(line.billing_target, mine, retry_rejected=circumstances.retry_rejected)
        if missing is not None:
            revision = mine[-1].revision + 1 if mine else 1
            row = _publication(found.tenant, invoice, line, revision, missing, circumstances)
            await ledger.insert(connection, row)
            added += 1
    return added


def _require_customer(tenant: Tenant, rows: Sequence[Publication]) -> None:
    """Differences only make sense for the customer who has the rest."""
    for row in rows:
        if row.customer_id != tenant.external_customer_id and row.state != PublicationState.REJECTED:
            raise FailedPreconditionError(
                f"tenant {tenant.slug}", f"usage of this period went to customer {row.customer_id}"
            )


def _publication(
    tenant: Tenant,
    invoice: Invoice,
    line: Line,
    revision: int,
    value: Decimal,
    circumstances: Circumstances,
) -> Publication:
    period = invoice.period
    refusal = rules.refusal(value)
    # The customer is part of the owner's name: two installations may bill by one account, and what one of
    # them has sent must not pass for a delivery of the other's.
    owner = f"{tenant.slug} {tenant.external_customer_id}"
    identifier = meter_event_identifier(owner, line.meter, period, revision)
    if refusal is not None:
        metrics.PROVIDER_CALLS.labels("send_usage", "rejected").inc()
        log.error("publication.rejected", identifier=identifier, code=refusal.value, value=str(value))
    return Publication(
        tenant_id=tenant.tenant_id,
        identifier=identifier,
        seq=0,
        invoice_id=invoice.invoice_id,
        calculation_id=line.calculation_id,
        meter=line.meter,
        period_start=period.start,
        period_end=period.end,
        revision=revision,
        value=value,
        event_name=line.billing_event_name,
        customer_id=tenant.external_customer_id,
        event_at=rules.event_time(period, circumstances.provider_now),
        key_generation=0,
        state=(PublicationState.REJECTED if refusal else PublicationState.PENDING).value,
        attempts=0,
        first_attempt_at=None,
        next_attempt_at=circumstances.now,
        sent_at=None,
        error_code=refusal.value if refusal else "",
        trace=traces.current(),
    )
