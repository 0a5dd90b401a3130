"""Rating a period: one snapshot of rules, one calculation a line, and the differences that follow.

Everything that rating writes is written in one transaction under a lock of the tenant, so that several
ratings of a period, however close together, send what one of them would have sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from meterline.calendar import Period
from meterline.db.pool import Connection
from meterline.errors import AbortedError, FailedPreconditionError
from meterline.ids import new_id
from meterline.telemetry import metrics, traceparent
from meterline.telemetry.logging import logger
from meterline.tenants import Tenant
from meterline.transactions.unit_of_work import Transaction

from meterline_publisher.billing.money import Money, currency
from meterline_publisher.gaps import store as gaps_store
from meterline_publisher.gaps.rules import Gap, GapReason, NotBillableError, none_billable, undeliverable
from meterline_publisher.invoices import store as invoices_store
from meterline_publisher.invoices.message import emit_changed
from meterline_publisher.invoices.rules import Invoice, InvoiceState, Line
from meterline_publisher.ledger import store as ledger_store
from meterline_publisher.ledger.rules import ledger as ledger_rules
from meterline_publisher.ledger.rules.accounts import Account, elsewhere
from meterline_publisher.ledger.rules.identifiers import event_identifier
from meterline_publisher.ledger.rules.ledger import Target
from meterline_publisher.ledger.rules.publications import Publication, PublicationState
from meterline_publisher.prices.store import prices
from meterline_publisher.providers.capabilities import Capabilities
from meterline_publisher.rating.pricing import Basis, basis
from meterline_publisher.rating.rules.assessment import Assessment, assess
from meterline_publisher.rating.rules.lines import to_line
from meterline_publisher.rating.rules.sent_settings import redirected
from meterline_publisher.rating.rules.totals import totals
from meterline_publisher.rating.rules.unbilled import unpriced, with_quantities
from meterline_publisher.rating.store import insert_calculation
from meterline_publisher.usage import store as usage_store
from meterline_publisher.usage.rules import changed_by
from meterline_publisher.usage.store import UsageWindow

log = logger()

NOTHING_ELSE: Final[Mapping[str, Decimal]] = {}


@dataclass(frozen=True, slots=True)
class Draft:
    """What rating makes of a period now. `unbilled` is what has no line: meters of the plan that cannot be
    billed, and meters that were used and have no price."""

    basis: Basis
    assessments: Sequence[Assessment]
    unbilled: Sequence[Gap]

    @property
    def total(self) -> Decimal:
        paid_in = currency(self.basis.tenant.currency)
        return totals(found.line for found in self.assessments).get(paid_in, Money(paid_in, 0)).amount


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a rating has to know of the world outside: two clocks, how the provider rounds and what
    it takes, of which meters the usage was asked for, and which of these do not exist."""

    now: datetime
    provider_now: datetime
    provider_decimals: int
    provider: Capabilities
    retry_rejected: bool
    fresh_meters: Set[str]
    unknown_meters: Set[str]


@dataclass(frozen=True, slots=True)
class Rated:
    """The stored outcome. `changed` are the lines that were calculated anew, `added` rows of the ledger,
    `gaps` what was found just now to be used and not billed."""

    invoice: Invoice
    changed: Sequence[Line]
    added: int
    gaps: Sequence[Gap]


async def draft(
    connection: Connection,
    priced: Basis,
    pulled: Iterable[UsageWindow] = (),
    deltas: Mapping[str, Decimal] = NOTHING_ELSE,
) -> Draft:
    """Rates a period without storing anything: by the usage that is known here or, where that is newer, was
    `pulled`; also as if the values of some meters were others by `deltas`.

    Raises NotBillableError when none of the plan's meters can be billed.
    """
    tenant, period = priced.tenant, priced.period
    known = await usage_store.of_period(connection, tenant.tenant_id, period.start)
    for window in pulled:
        meter = window.usage.meter
        if meter not in known or known[meter].revision < window.usage.revision:
            known[meter] = window.usage
    used = changed_by(known, deltas)
    left_out = with_quantities(priced.left_out, used)
    seen = {rule.meter for rule in priced.rule_set.rules} | {gap.meter for gap in left_out}
    unbilled = [*left_out, *unpriced(seen, priced.catalogue, used, tenant.zone)]
    if left_out and not priced.rule_set.rules:
        raise none_billable(unbilled)
    return Draft(priced, assess(priced.rule_set, tenant.slug, period, used), unbilled)


async def store(tx: Transaction, tenant: Tenant, period: Period, circumstances: Circumstances) -> Rated:
    """Rates a period and writes what differs from what is stored; nothing, when nothing does.

    Raises as `basis`, FailedPreconditionError for an invoice that is final, and AbortedError when a meter is
    priced that was not when usage was asked for.
    """
    connection = tx.connection
    await invoices_store.lock_tenant(connection, tenant.tenant_id)
    priced = await basis(connection, tenant, period)
    if not circumstances.fresh_meters >= {rule.meter for rule in priced.rule_set.rules if rule.needs_usage}:
        raise AbortedError("prices changed meanwhile; try again", retry_after=0)
    found = await draft(connection, priced.without(circumstances.unknown_meters))
    priced = found.basis
    before = await _locked(connection, priced) or _new_invoice(found)
    if InvoiceState(before.state).final:
        raise final_error(before)
    changed = [
        (assessment, _line(found, before, assessment, circumstances))
        for assessment in found.assessments
        if _is_new(found.basis.lines.get(assessment.rule.meter), assessment)
    ]
    rule_set = priced.rule_set
    gone = sorted(priced.lines.keys() - {rule.meter for rule in rule_set.rules})
    _require_kept(priced, circumstances.unknown_meters)
    invoice = replace(before, plan=priced.plan, total=found.total, rule_set_id=rule_set.rule_set_id)
    moved = bool(changed or gone) or invoice != before
    if moved:
        invoice = replace(invoice, trace=traceparent.current())
        await prices.insert_rule_set(connection, rule_set)
        await invoices_store.upsert(connection, invoice)
        await invoices_store.delete_lines(connection, invoice, gone)
    for assessment, line in changed:
        await insert_calculation(connection, line, invoice, rule_set, assessment, circumstances.now)
        await invoices_store.upsert_line(connection, line)
    moved_lines = _redirected(found)
    for line in moved_lines:
        await invoices_store.upsert_line(connection, line)
    lines = dict(priced.lines) | {line.meter: line for line in (*moved_lines, *(one for _, one in changed))}
    left = [line for meter, line in lines.items() if meter not in gone]
    added, rejected = await _extend_ledger(connection, found, invoice, left, circumstances)
    missing = [*found.unbilled, *rejected]
    new = await gaps_store.replace(
        connection, tenant.tenant_id, period, missing, list(GapReason), circumstances.now
    )
    complete = await ledger_store.is_complete(connection, tenant.tenant_id, invoice.invoice_id)
    state = InvoiceState.PUBLISHED if complete else InvoiceState.OPEN
    if moved or state != before.state:
        invoice = replace(invoice, state=state.value, version=before.version + 1)
        await invoices_store.upsert(connection, invoice)
        emit_changed(tx, invoice)
    return Rated(invoice, [line for _, line in changed], added, new)


def final_error(invoice: Invoice) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"invoice {invoice.invoice_id}", "is final at the provider", "INVOICE_IS_FINAL"
    )


async def _locked(connection: Connection, priced: Basis) -> Invoice | None:
    """The stored invoice, locked: the sender changes it too, when it has sent the last row."""
    if priced.invoice is None:
        return None
    return await invoices_store.by_id_for_update(
        connection, priced.tenant.tenant_id, priced.invoice.invoice_id
    )


def _require_kept(priced: Basis, unknown_meters: Set[str]) -> None:
    """A meter that has counted, or that a price refers to, is never deleted, so one that had usage and is not
    there is no misspelt one: aggregate has lost it. What was billed is not taken back for that."""
    for meter in sorted(unknown_meters & priced.lines.keys()):
        if priced.lines[meter].usage_revision:
            raise NotBillableError(
                GapReason.FAULT, f"meter {meter}", "has been billed, and aggregate does not know it any more"
            )


def _new_invoice(found: Draft) -> Invoice:
    return Invoice(
        tenant_id=found.basis.tenant.tenant_id,
        invoice_id=new_id(),
        plan=found.basis.plan,
        currency=found.basis.tenant.currency,
        period_start=found.basis.period.start,
        period_end=found.basis.period.end,
        state=InvoiceState.OPEN.value,
        total=found.total,
        version=0,
        rule_set_id=found.basis.rule_set.rule_set_id,
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
        (found.basis.lines[assessment.rule.meter], assessment)
        for assessment in found.assessments
        if not _is_new(found.basis.lines.get(assessment.rule.meter), assessment)
    ]
    return [moved for line, assessment in standing if (moved := redirected(line, assessment)) != line]


def _line(found: Draft, invoice: Invoice, assessment: Assessment, circumstances: Circumstances) -> Line:
    stored = found.basis.lines.get(assessment.rule.meter)
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
    lines: Iterable[Line],
    circumstances: Circumstances,
) -> tuple[int, list[Gap]]:
    """Writes a row for every target that the ledger does not come to; returns how many, and what the provider
    does not take."""
    tenant = found.basis.tenant
    rows = await ledger_store.of_period(connection, invoice.tenant_id, invoice.period_start)
    require_account(tenant, circumstances.provider.name, rows)
    revisions: dict[str, int] = {}
    for row in rows:
        revisions[row.meter] = max(row.revision, revisions.get(row.meter, 0))
    added, rejected = 0, {}
    for target in ledger_rules.targets(lines, rows):
        # What another provider rejected says nothing about this one.
        mine = [
            row
            for row in rows
            if (row.provider, row.meter, row.event_name)
            == (circumstances.provider.name, target.meter, target.event_name)
        ]
        missing = ledger_rules.difference(
            target.value, mine, circumstances.provider, retry_rejected=circumstances.retry_rejected
        )
        if missing is not None:
            revisions[target.meter] = revision = revisions.get(target.meter, 0) + 1
            row = _publication(tenant, invoice, target, revision, missing, circumstances)
            await ledger_store.insert(connection, row)
            mine.append(row)
            added += 1
        if (
            mine
            and mine[-1].state == PublicationState.REJECTED
            and not ledger_rules.is_reached(target.value, mine)
        ):
            rejected[target.meter] = undeliverable(target.meter, mine[-1].value, mine[-1].error_code)
    return added, list(rejected.values())


def require_account(tenant: Tenant, provider: str, rows: Sequence[Publication]) -> None:
    """Differences only make sense for the customer who has the rest, at the same provider. Raises
    NotBillableError for a tenant that is another customer now, or one of another provider."""
    own = Account(provider, tenant.external_customer_id, tenant.external_subscription_id)
    row = elsewhere(own, rows)
    if row is not None:
        whom = f"customer {row.customer_id}" if row.provider == provider else f"the provider {row.provider}"
        raise NotBillableError(
            GapReason.CUSTOMER_CHANGED, f"tenant {tenant.slug}", f"usage of this period went to {whom}"
        )


def _publication(
    tenant: Tenant,
    invoice: Invoice,
    target: Target,
    revision: int,
    value: Decimal,
    circumstances: Circumstances,
) -> Publication:
    period, provider = invoice.period, circumstances.provider
    refusal = ledger_rules.refusal(value, provider)
    # The customer is part of the owner's name: two installations may bill by one account, and what one of
    # them has sent must not pass for a delivery of the other's.
    owner = f"{tenant.slug} {tenant.external_customer_id}"
    identifier = event_identifier(owner, target.meter, period, revision, provider.max_identifier)
    if refusal is not None:
        metrics.PROVIDER_CALLS.labels("send_usage", "rejected").inc()
        log.error("publication.rejected", identifier=identifier, code=refusal.value, value=str(value))
    return Publication(
        tenant_id=tenant.tenant_id,
        identifier=identifier,
        seq=0,
        invoice_id=invoice.invoice_id,
        calculation_id=target.calculation_id,
        meter=target.meter,
        period_start=period.start,
        period_end=period.end,
        revision=revision,
        value=value,
        event_name=target.event_name,
        customer_id=tenant.external_customer_id,
        event_at=ledger_rules.event_time(period, circumstances.provider_now, provider),
        key_generation=0,
        state=(PublicationState.REJECTED if refusal else PublicationState.PENDING).value,
        attempts=0,
        first_attempt_at=None,
        next_attempt_at=circumstances.now,
        sent_at=None,
        error_code=refusal.value if refusal else "",
        trace=traceparent.current(),
        provider=provider.name,
    )
