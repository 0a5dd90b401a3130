"""Rates a period: one snapshot of rules, one calculation per line, and the resulting differences.

A rating writes in one transaction under a lock on the tenant, so that concurrent ratings of a period together
send what a single one would have sent.
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
    """The result of rating a period without storing it. `unbilled` are gaps: meters of the plan that cannot
    be billed, and meters with usage and no price."""

    basis: Basis
    assessments: Sequence[Assessment]
    unbilled: Sequence[Gap]

    @property
    def total(self) -> Decimal:
        paid_in = currency(self.basis.tenant.currency)
        return totals(found.line for found in self.assessments).get(paid_in, Money(paid_in, 0)).amount


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The external facts that a rating needs: our time and the provider's, how the provider rounds and what
    it accepts, the meters whose usage is fresh, and those of them that do not exist."""

    now: datetime
    provider_now: datetime
    provider_decimals: int
    provider: Capabilities
    retry_rejected: bool
    fresh_meters: Set[str]
    unknown_meters: Set[str]


@dataclass(frozen=True, slots=True)
class Rated:
    """The stored result. `changed`: recalculated lines; `added`: number of new rows of the ledger; `gaps`:
    usage newly found not to be billed."""

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
    """Rates a period without storing anything, by the newest usage that is stored here or in `pulled`,
    changed by `deltas`.

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
    """Rates a period and writes what differs from the stored result; nothing if nothing differs.

    Raises as `basis`, FailedPreconditionError for a final invoice, and AbortedError when the rules now price
    a meter whose usage was not requested.
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
    removed = sorted(priced.lines.keys() - {rule.meter for rule in rule_set.rules})
    _require_no_lost_meter(priced, circumstances.unknown_meters)
    invoice = replace(before, plan=priced.plan, total=found.total, rule_set_id=rule_set.rule_set_id)
    moved = bool(changed or removed) or invoice != before
    if moved:
        invoice = replace(invoice, trace=traceparent.current())
        await prices.insert_rule_set(connection, rule_set)
        await invoices_store.upsert(connection, invoice)
        await invoices_store.delete_lines(connection, invoice, removed)
    for assessment, line in changed:
        await insert_calculation(connection, line, invoice, rule_set, assessment, circumstances.now)
        await invoices_store.upsert_line(connection, line)
    moved_lines = _redirected(found)
    for line in moved_lines:
        await invoices_store.upsert_line(connection, line)
    lines = dict(priced.lines) | {line.meter: line for line in (*moved_lines, *(one for _, one in changed))}
    left = [line for meter, line in lines.items() if meter not in removed]
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
    """The stored invoice, locked, since the sender updates it after sending the last row."""
    if priced.invoice is None:
        return None
    return await invoices_store.by_id_for_update(
        connection, priced.tenant.tenant_id, priced.invoice.invoice_id
    )


def _require_no_lost_meter(priced: Basis, unknown_meters: Set[str]) -> None:
    """A meter that has counted, or that a price refers to, is never deleted. So if a billed meter is unknown,
    it is not misspelt, but aggregate has lost it; the billed amount must not be reversed for that."""
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
    """Compares digests of usage, revision and rule: equal digests mean equal amounts."""
    return stored is None or stored.inputs_digest != assessment.inputs_digest


def _redirected(found: Draft) -> list[Line]:
    """Lines with unchanged amounts whose delivery settings changed."""
    unchanged = [
        (found.basis.lines[assessment.rule.meter], assessment)
        for assessment in found.assessments
        if not _is_new(found.basis.lines.get(assessment.rule.meter), assessment)
    ]
    return [moved for line, assessment in unchanged if (moved := redirected(line, assessment)) != line]


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
    """Writes a row for every target that the ledger does not reach; returns the number of rows, and gaps for
    values that the provider does not accept."""
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
    """Checks that earlier rows went to the same customer and provider, since a row is only a difference."""
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
    # The customer is part of the identifier: two installations may bill through one account, and an event of
    # one must not be taken for an event of the other.
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
