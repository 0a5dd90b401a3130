"""What each stage says the sums are: the maintained windows, the invoice lines, and Stripe's summaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from google.protobuf import timestamp_pb2
from meterline_protos.aggregate.v1 import reconciliation_pb2, usage_pb2
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import events_pb2
from meterline_protos.publisher.v1 import invoices_pb2

from meterline_dev.demo.calls import Services, ask, each, looks
from meterline_dev.demo.carriers import CARRIERS, Carrier
from meterline_dev.demo.meters import GROUP, METERS
from meterline_dev.demo.months import Month, month_of
from meterline_dev.demo.oracle import Cell
from meterline_dev.demo.state import State
from meterline_dev.demo.stripe_account import AT_ONCE, StripeAccount

Sums = Mapping[Cell, Decimal]

_CODES: Final = {carrier.tenant: carrier.code for carrier in CARRIERS}
_SETTLE_SECONDS: Final = 60.0
# Between comparisons, each of which asks two services to count.
_PAUSE_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Conservation:
    """Events by carrier: what ingest says it accepted, and what the aggregate service counted."""

    accepted: Mapping[str, int]
    aggregated: Mapping[str, int]


async def conservation(services: Services) -> Conservation:
    """Waits until everything that was accepted has been aggregated, or for a minute; then says what is."""
    compare = services.reconciliation.Compare
    found = reconciliation_pb2.CompareResponse()
    async for found in looks(
        lambda: ask(compare, reconciliation_pb2.CompareRequest()), _SETTLE_SECONDS, _PAUSE_SECONDS
    ):
        mine = [tenant for tenant in found.tenants if tenant.tenant_id in _CODES]
        if all(tenant.gap == 0 for tenant in mine):
            break
    totals = await ask(services.events.GetTotals, events_pb2.GetTotalsRequest())
    return Conservation(
        {_CODES[total.tenant_id]: total.accepted for total in totals.totals if total.tenant_id in _CODES},
        {_CODES[one.tenant_id]: one.aggregated for one in found.tenants if one.tenant_id in _CODES},
    )


async def usage(services: Services, months: Sequence[Month]) -> Sums:
    """Every month window of every meter, in total and by origin."""
    span = types_pb2.TimeRange(start_time=stamp(months[0].start), end_time=stamp(months[-1].end))
    wanted = [
        (
            carrier,
            usage_pb2.QueryUsageRequest(
                tenant_id=carrier.tenant,
                meter=meter.name,
                grain=types_pb2.GRAIN_MONTH,
                range=span,
                by_group=by_group,
            ),
        )
        for carrier in CARRIERS
        for meter in METERS
        for by_group in (False, True)
    ]
    answers = await each(wanted, lambda one: ask(services.usage.QueryUsage, one[1]))
    found: dict[Cell, Decimal] = {}
    for (carrier, request), answer in zip(wanted, answers, strict=True):
        for window in answer.windows:
            month = month_of(window.start_time.ToDatetime(tzinfo=UTC))
            origin = window.group[GROUP] if request.by_group else ""
            found[carrier.code, month.year, month.month, request.meter, origin] = Decimal(window.value)
    return found


def rated(invoices: Iterable[invoices_pb2.Invoice]) -> Sums:
    """Quantities on invoice lines."""
    found: dict[Cell, Decimal] = {}
    for invoice in invoices:
        month = invoice_month(invoice)
        for line in invoice.lines:
            cell = (_CODES[invoice.tenant_id], month.year, month.month, line.meter, "")
            found[cell] = Decimal(line.quantity)
    return found


async def at_stripe(
    account: StripeAccount, state: State, months: Sequence[Month], expected: Sums, patience: float
) -> Sums:
    """Stripe's own summaries. They may lag behind what was sent, so each gets `patience` seconds to come to
    what is `expected`; what it says then is the answer."""

    async def one(item: tuple[Carrier, Month, int]) -> tuple[Cell, Decimal]:
        carrier, month, number = item
        meter = METERS[number]
        cell = (carrier.code, month.year, month.month, meter.name, "")
        customer = state.tenants[carrier.tenant].customer
        stripe_meter = state.meters[meter.billing_event_name]
        value = Decimal(0)
        async for value in looks(lambda: account.usage(customer, stripe_meter, month), patience):
            if value == expected.get(cell, 0):
                break
        return cell, value

    wanted = [
        (carrier, month, number) for carrier in CARRIERS for month in months for number in range(len(METERS))
    ]
    return dict(await each(wanted, one, AT_ONCE))


def invoice_month(invoice: invoices_pb2.Invoice) -> Month:
    """The month that an invoice is for."""
    return month_of(invoice.period_start.ToDatetime(tzinfo=UTC))


def stamp(at: datetime) -> timestamp_pb2.Timestamp:
    """A time as the services take it."""
    found = timestamp_pb2.Timestamp()
    found.FromDatetime(at.astimezone(UTC))
    return found
