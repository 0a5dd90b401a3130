"""The verdict: every stage held against the sums that were computed straight from the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from meterline_protos.publisher.v1 import invoices_pb2

from meterline_dev.demo.capture import Captured
from meterline_dev.demo.closing import Invoices
from meterline_dev.demo.explained import Explained
from meterline_dev.demo.oracle import Expected
from meterline_dev.demo.quarantine_fix import QuarantineFix
from meterline_dev.demo.sums import Conservation, Sums

_MOST_DIFFERENCES = 20


@dataclass(slots=True)
class Check:
    """One comparison: what was compared, how many values, and every value that differs."""

    name: str
    values: int
    differences: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.differences


@dataclass(frozen=True, slots=True)
class Stages:
    """What each stage says. `file` is from the file alone; lines and Stripe have no sums by origin."""

    file: Sums
    usage: Sums
    lines: Sums
    stripe: Sums


@dataclass(slots=True)
class Verdict:
    """lost, doubled: events that a later stage has less, or more, than the file has billable ones"""

    checks: list[Check]
    lost: int
    doubled: int

    @property
    def sums_agree(self) -> bool:
        """Whether the sums of all stages are those of the file."""
        return all(check.holds for check in self.checks if check.name in _SUMS)

    @property
    def holds(self) -> bool:
        return self.lost == 0 and self.doubled == 0 and all(check.holds for check in self.checks)


USAGE = "usage by tenant and month"
ORIGINS = "usage by tenant, month and origin"
LINES = "quantities on invoice lines"
STRIPE = "Stripe's own summaries"
_SUMS = (USAGE, ORIGINS, LINES, STRIPE)


def judge(
    expected: Expected,
    captured: Captured,
    fix: QuarantineFix,
    conserved: Conservation,
    stages: Stages,
    invoices: Invoices,
    totals_at_stripe: Mapping[str, tuple[str, Decimal]],
    explained: Explained | None,
) -> Verdict:
    """Holds everything that the demo found against what the file says."""
    totals = {cell: value for cell, value in stages.file.items() if not cell[-1]}
    origins = {cell: value for cell, value in stages.file.items() if cell[-1]}
    checks = [
        _outcomes(expected, captured, fix),
        *_replay_checks(totals, fix),
        _compare(USAGE, totals, {cell: value for cell, value in stages.usage.items() if not cell[-1]}),
        _compare(ORIGINS, origins, {cell: value for cell, value in stages.usage.items() if cell[-1]}),
        _compare(LINES, totals, stages.lines),
        _compare(STRIPE, totals, stages.stripe),
        _invoices(invoices, totals_at_stripe),
        _explanation(explained),
    ]
    lost, doubled = _conservation(expected, conserved, stages)
    return Verdict(checks, lost, doubled)


def _outcomes(expected: Expected, captured: Captured, fix: QuarantineFix) -> Check:
    """Every row got its outcome; the right ones were refused, and wait."""
    check = Check("outcomes of capture", captured.read)
    billable = sum(expected.billable.values())
    for what, ours, theirs in (
        ("flights read", captured.read, expected.rows),
        ("outcomes", captured.accepted + captured.duplicate + captured.rejected, expected.rows),
        (
            "accepted, replayed or there before",
            captured.accepted + captured.duplicate + fix.replayed,
            billable,
        ),
        ("without aircraft", _refused(captured, "subject"), expected.no_aircraft),
        ("waiting in quarantine", fix.left, expected.no_aircraft),
    ):
        if ours != theirs:
            check.differences.append(f"{what}: {ours:,}, and {theirs:,} by the file")
    return check


def _replay_checks(totals: Sums, fix: QuarantineFix) -> list[Check]:
    """The invoices changed by exactly what was replayed. Where nothing was, they were right before."""
    due = {cell: value for cell, value in fix.due.items() if not cell[-1]} if fix.replayed else totals
    return [
        _compare("invoices before the replay", due, fix.before),
        _compare("invoices after the replay", totals, fix.after),
    ]


def _refused(captured: Captured, field_name: str) -> int:
    return sum(count for refusal, count in captured.refusals.items() if refusal.field == field_name)


def _compare(name: str, expected: Sums, found: Sums) -> Check:
    """A cell that is missing is zero."""
    cells = sorted(expected.keys() | found.keys())
    check = Check(name, len(cells))
    for cell in cells:
        ours, theirs = found.get(cell, Decimal(0)), expected.get(cell, Decimal(0))
        if ours != theirs:
            carrier, year, month, meter, origin = cell
            place = f"{carrier} {year}-{month:02} {meter} {origin}".rstrip()
            check.differences.append(f"{place}: {ours:,}, and {theirs:,} by the file")
    return check


def _invoices(invoices: Invoices, totals_at_stripe: Mapping[str, tuple[str, Decimal]]) -> Check:
    """Final ones have Stripe's total, by our record and by Stripe's own invoice; none is in dispute."""
    final = [one for one in invoices.values() if one.state != invoices_pb2.INVOICE_STATE_PUBLISHED]
    check = Check("final invoices, to the cent", len(final))
    for invoice in final:
        status, theirs = totals_at_stripe.get(invoice.external_invoice_id, ("missing", None))
        place = f"{invoice.tenant_id.upper()} {invoice.period_end.ToDatetime():%d %b %Y}"
        if invoice.state != invoices_pb2.INVOICE_STATE_FINALIZED:
            state = invoices_pb2.InvoiceState.Name(invoice.state).removeprefix("INVOICE_STATE_").lower()
            check.differences.append(f"{place}: the invoice is {state}")
        elif status == "draft" or not Decimal(invoice.total) == Decimal(invoice.external_total) == theirs:
            check.differences.append(f"{place}: {invoice.total}, and {theirs} ({status}) at Stripe")
    return check


def _explanation(explained: Explained | None) -> Check:
    if explained is None:
        return Check("one line, explained", 0, ["there is no line with events"])
    return Check("one line, explained", len(explained.events), explained.faults())


def _conservation(expected: Expected, conserved: Conservation, stages: Stages) -> tuple[int, int]:
    """Events that got lost on the way, and that counted twice: of all stages the worst."""
    counts: Sequence[Mapping[str, int]] = (
        conserved.accepted,
        conserved.aggregated,
        _departures(stages.usage),
        _departures(stages.lines),
        _departures(stages.stripe),
    )
    carriers = expected.billable.keys() | {carrier for count in counts for carrier in count}
    gaps = [[expected.billable[carrier] - count.get(carrier, 0) for carrier in carriers] for count in counts]
    lost = max(sum(gap for gap in stage if gap > 0) for stage in gaps)
    doubled = max(-sum(gap for gap in stage if gap < 0) for stage in gaps)
    return lost, doubled


def _departures(sums: Sums) -> Mapping[str, int]:
    """Every flight is one departure, so this meter counts events."""
    found: dict[str, int] = {}
    for (carrier, _, _, meter, origin), value in sums.items():
        if meter == "departures" and not origin:
            found[carrier] = found.get(carrier, 0) + int(value)
    return found


def differences(verdict: Verdict) -> list[str]:
    """What differs, for people; the first of them if there are many."""
    found = [f"{check.name}: {one}" for check in verdict.checks for one in check.differences]
    more = len(found) - _MOST_DIFFERENCES
    return found[:_MOST_DIFFERENCES] + ([f"and {more:,} more"] if more > 0 else [])
