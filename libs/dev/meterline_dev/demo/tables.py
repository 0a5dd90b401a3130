"""The tables of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from decimal import Decimal
from typing import Final

from meterline_protos.ingest.v1 import events_pb2
from meterline_protos.publisher.v1 import invoices_pb2
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from meterline_dev.demo.capture import Captured
from meterline_dev.demo.carriers import CARRIERS, CURRENCY
from meterline_dev.demo.closing import Invoices
from meterline_dev.demo.explained import Explained
from meterline_dev.demo.flights import LOCAL
from meterline_dev.demo.meters import METERS
from meterline_dev.demo.months import Month
from meterline_dev.demo.quarantine_fix import QuarantineFix
from meterline_dev.demo.sums import Sums
from meterline_dev.demo.verdict import Stages, Verdict, differences

_FEW: Final = 3
# Columns of a terminal that has room for names.
_WIDE: Final = 110
_STATES: Final = {
    invoices_pb2.INVOICE_STATE_OPEN: ("open", "yellow"),
    invoices_pb2.INVOICE_STATE_PUBLISHED: ("published", "cyan"),
    invoices_pb2.INVOICE_STATE_FINALIZED: ("final", "green"),
    invoices_pb2.INVOICE_STATE_DISPUTED: ("disputed", "red"),
}


def _table(title: str, *left: str, right: Sequence[str] = (), footer: bool = False) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_footer=footer
    )
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def outcomes(captured: Captured) -> RenderableType:
    """How many events there were, and what became of them."""
    numbers = [
        ("read", captured.read, ""),
        ("accepted", captured.accepted, "green"),
        ("duplicate", captured.duplicate, "cyan" if captured.duplicate else "dim"),
        ("rejected", captured.rejected, "yellow" if captured.rejected else "dim"),
    ]
    unwanted = [
        ("conflict", captured.conflict, "red"),
        ("without an answer", captured.failed, "red"),
        ("dropped", captured.dropped, "red"),
    ]
    line = Text("Capture   ", style="bold")
    for name, number, style in [*numbers, *(one for one in unwanted if one[1])]:
        line.append(f"{number:,}", style=style or "bold").append(f" {name}   ", style="not bold")
    return line.append(f"{captured.events_per_second:,.0f} events/s", style="cyan")


def refusals(captured: Captured) -> Table:
    """Events that do not count yet: nothing is dropped in silence."""
    columns = ("reason", "field", "rule", "for example")
    table = _table("Rejected, each with its reason", *columns, right=["events"])
    for refusal, count in captured.refusals.most_common():
        example = captured.examples[refusal]
        table.add_row(refusal.reason, refusal.field, escape(refusal.message), escape(example), f"{count:,}")
    return table


def quarantine_fix(found: QuarantineFix) -> RenderableType:
    """Quarantined entries by reason, and the effect of the replay on the invoices."""
    table = _table("In quarantine", "reason", "field", "rule", right=["events"])
    for (reason, name, rule), count in found.waiting.most_common():
        table.add_row(reason, name, escape(rule), f"{count:,}")
    before, after = found.totals
    line = Text(f"{found.replayed:,}", style="green").append(" replayed   ", style="not bold")
    line.append(f"{found.left:,}", style="yellow").append(" wait on   ", style="not bold")
    line.append(f"invoices {before:,.2f} to {after:,.2f} {CURRENCY}: ", style="not bold")
    line.append(f"{after - before:+,.2f}", style="cyan")
    for meter in METERS:
        grown = _total(found.after, meter.name) - _total(found.before, meter.name)
        line.append(f"   {meter.title} {grown:+,}", style="dim")
    return Group(table, line)


def invoices(found: Invoices, months: Sequence[Month], running: Month, width: int) -> Table:
    """Totals by tenant and month. `running` is the month that is not over; names need some `width`."""
    named = width >= _WIDE
    table = _table(f"Invoices, {CURRENCY}", *(("tenant", "", "plan") if named else ("",)), footer=True)
    for month in months:
        of_month = [invoice for (_, one), invoice in found.items() if one == month]
        name = "so far" if month >= running else "/".join(sorted({_STATES[one.state][0] for one in of_month}))
        total = sum((Decimal(one.total) for one in of_month), Decimal(0))
        table.add_column(f"{month.title}\n[dim]{name}[/]", f"{total:,.2f}", justify="right", no_wrap=True)
    everything = sum((Decimal(one.total) for one in found.values()), Decimal(0))
    table.add_column("all", f"{everything:,.2f}", justify="right", no_wrap=True, style="bold")
    for carrier in CARRIERS:
        mine = [found.get((carrier.tenant, month)) for month in months]
        total = sum((Decimal(one.total) for one in mine if one), Decimal(0))
        names = (carrier.tenant, carrier.name, carrier.plan) if named else (carrier.tenant,)
        table.add_row(*names, *(_amount(one) for one in mine), f"{total:,.2f}")
    return table


def _amount(invoice: invoices_pb2.Invoice | None) -> Text:
    if invoice is None:
        return Text("-", style="dim")
    return Text(f"{Decimal(invoice.total):,.2f}", style=_STATES[invoice.state][1])


def explained(found: Explained) -> RenderableType:
    """A line with its steps and some of its events, and the way back from the first of these."""
    line, invoice = found.line, found.invoice
    name = next(carrier.name for carrier in CARRIERS if carrier.tenant == invoice.tenant_id)
    month = f"{invoice.period_start.ToDatetime(tzinfo=UTC).astimezone(LOCAL):%B %Y}"
    tree = Tree(
        f"[bold]{name}, {month}, {line.description}: {_number(line.quantity)} for {_number(line.amount)} "
        f"{invoice.currency}[/]\n[dim]line {line.line_id}  invoice {invoice.invoice_id}  "
        f"Stripe {invoice.external_invoice_id or '-'}  trace {line.trace.trace_id}[/]"
    )
    steps = tree.add(f"price version {line.price_version} [dim]sha256 {line.price_digest[:16]}…[/]")
    for step in line.steps:
        terms = f"{_number(step.quantity)} x {_number(step.unit_amount)} = {_number(step.amount)}"
        steps.add(f"{escape(step.description)}: {terms}")
    for sent in found.publications:
        when = f"{sent.sent_at.ToDatetime(tzinfo=UTC):%Y-%m-%d %H:%M:%S}Z"
        tree.add(f"sent to Stripe: {_number(sent.value)} [dim]{sent.identifier}  {when}[/]")
    days = tree.add(_counted(len(found.windows), "day", "days") + " with flights")
    for window in found.windows[:_FEW]:
        days.add(f"{_number(window.value)} [dim]{window.window_id}[/]")
    _more(days, len(found.windows))
    events = tree.add(
        _counted(len(found.events), "event", "events")
        + " in "
        + _counted(len(found.batches), "batch", "batches")
    )
    for event in found.events[:_FEW]:
        events.add(_event(found, event))
    _more(events, len(found.events))
    _add_way_back(tree, found)
    return Group(Text("One line, explained", style="bold"), tree)


def _event(found: Explained, event: events_pb2.StoredEvent) -> str:
    at = f"{event.time.ToDatetime(tzinfo=UTC).astimezone(LOCAL):%d %b %H:%M}"
    route = f"{event.dimensions['origin']} to {event.dimensions['dest']}"
    trace = found.batches[event.batch_id].trace_url or found.trace_of(event)
    return (
        f"{event.subject} {route} {at}  [dim]trace {trace}\nevent {event.event_id}  batch {event.batch_id}[/]"
    )


def _add_way_back(tree: Tree, found: Explained) -> None:
    if found.back is None:
        return
    back = tree.add(f"and back: event {found.back.event.event_id} counts for")
    for use in found.back.uses:
        mark = " [green]this line[/]" if use.line.line_id == found.line.line_id else ""
        back.add(f"{use.line.description or use.meter} [dim]line {use.line.line_id or '-'}[/]{mark}")


def _more(tree: Tree, count: int) -> None:
    if count > _FEW:
        tree.add(f"[dim]and {count - _FEW:,} more[/]")


def stages(found: Stages) -> Table:
    """Sums over all tenants and months, stage by stage."""
    columns = ["from the file", "usage", "invoice lines", "Stripe"]
    table = _table("Sums, all tenants and months", "meter", right=columns)
    for meter in METERS:
        values = [_total(stage, meter.name) for stage in (found.file, found.usage, found.lines, found.stripe)]
        style = "green" if len(set(values)) == 1 else "red"
        table.add_row(meter.title, *(f"[{style}]{value:,}[/]" for value in values))
    return table


def _total(stage: Sums, meter: str) -> Decimal:
    return sum((value for cell, value in stage.items() if cell[3] == meter and not cell[4]), Decimal(0))


def checks(verdict: Verdict) -> Table:
    """Each comparison with the number of values that were compared one by one."""
    table = _table("Verdict", "", "check", right=["compared", "differ"])
    for check in verdict.checks:
        mark = "[green]✓[/]" if check.holds else "[red]✗[/]"
        differ = f"[{'dim' if check.holds else 'red'}]{len(check.differences)}[/]"
        table.add_row(mark, check.name, f"{check.values:,}", differ)
    return table


def conclusion(verdict: Verdict) -> RenderableType:
    """The verdict in one line, and what differs if anything does."""
    style = "green" if verdict.holds else "red"
    lines = [Text(f"lost {verdict.lost:,}   doubled {verdict.doubled:,}", style=f"bold {style}")]
    lines += [Text(one, style="red") for one in differences(verdict)]
    return Group(*lines)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _number(decimal: str) -> str:
    """A decimal for people; what is none (a fraction `p/q`) stays as it is."""
    return decimal if "/" in decimal else f"{Decimal(decimal):,f}"
