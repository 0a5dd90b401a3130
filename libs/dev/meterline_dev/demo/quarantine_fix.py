"""The bad rows of the source are in quarantine: the wrong rule is corrected, and these rows are replayed.

A flight without its minutes in the air did take off: it was diverted. That the event type requires such
minutes is a mistake. Flights without an aircraft never left, and stay in quarantine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from meterline_protos.ingest.v1 import event_types_pb2, quarantine_pb2
from meterline_protos.publisher.v1 import invoices_pb2

from meterline_dev.demo import sums
from meterline_dev.demo.calls import Services, ask, each, looks
from meterline_dev.demo.carriers import CARRIERS, Carrier
from meterline_dev.demo.meters import event_type
from meterline_dev.demo.months import Month
from meterline_dev.demo.sums import Sums, stamp

FIXED_FIELD: Final = "quantities.air_minutes"
_WHO: Final = "demo"
_WHY: Final = "diverted flights have no minutes in the air"
_PAGE: Final = 1_000
# Meters that count whatever is accepted.
_OF_EVERY_FLIGHT: Final = ("departures", "miles", "aircraft")
_SETTLE_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.25


@dataclass(slots=True)
class QuarantineFix:
    """The replay from quarantine and its effect.

    waiting: entries by (reason, field, rule) before the fix
    replayed: flights that the replay accepted
    left: entries that still wait
    before, after: quantities on the invoices if they had closed then
    due: the expected quantities before the fix, computed from the file
    totals: of those invoices, before and after
    """

    waiting: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    replayed: int = 0
    left: int = 0
    before: Sums = field(default_factory=dict)
    after: Sums = field(default_factory=dict)
    due: Sums = field(default_factory=dict)
    totals: tuple[Decimal, Decimal] = (Decimal(0), Decimal(0))


async def correct_and_replay(services: Services, months: Sequence[Month]) -> QuarantineFix:
    """Corrects the rule and replays the rejected events. A repeated call changes nothing."""
    fix = QuarantineFix(waiting=await _waiting(services))
    previews = await _settled(services, months)
    fix.before = sums.rated(previews)
    await ask(
        services.event_types.PutEventType,
        event_types_pb2.PutEventTypeRequest(
            event_type=event_type(air_minutes_required=False), changed_by=_WHO
        ),
    )
    fix.replayed = sum(await each(CARRIERS, lambda carrier: _replay(services, carrier)))
    changed = await _settled(services, months)
    fix.left = (await _waiting(services)).total()
    fix.after = sums.rated(changed)
    fix.totals = _total(previews), _total(changed)
    return fix


async def _waiting(services: Services) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for one in await each(CARRIERS, lambda carrier: _waiting_of(services, carrier)):
        found += one
    return found


async def _waiting_of(services: Services, carrier: Carrier) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    request = quarantine_pb2.ListQuarantinedRequest(tenant_id=carrier.tenant, page_size=_PAGE)
    while True:
        answer = await ask(services.quarantine.ListQuarantined, request)
        found.update((entry.reason, entry.field, entry.rule) for entry in answer.entries)
        request.page_token = answer.next_page_token
        if not request.page_token:
            return found


async def _replay(services: Services, carrier: Carrier) -> int:
    answer = await ask(
        services.quarantine.ReplayQuarantined,
        quarantine_pb2.ReplayQuarantinedRequest(
            tenant_id=carrier.tenant,
            filter=quarantine_pb2.QuarantineFilter(field=FIXED_FIELD),
            requested_by=_WHO,
            reason=_WHY,
        ),
    )
    return answer.accepted + answer.duplicate


async def _settled(services: Services, months: Sequence[Month]) -> list[invoices_pb2.Invoice]:
    """What every invoice would be if it closed now, once all events that were accepted are aggregated."""
    accepted = sum((await sums.conservation(services)).accepted.values())
    found: list[invoices_pb2.Invoice] = []
    async for found in looks(lambda: _previews(services, months), _SETTLE_SECONDS, _PAUSE_SECONDS):
        if all(_events(found, meter) == accepted for meter in _OF_EVERY_FLIGHT):
            break
    return found


async def _previews(services: Services, months: Sequence[Month]) -> list[invoices_pb2.Invoice]:
    wanted = [(carrier, month) for carrier in CARRIERS for month in months]

    async def preview(one: tuple[Carrier, Month]) -> invoices_pb2.Invoice:
        carrier, month = one
        request = invoices_pb2.PreviewInvoiceRequest(tenant_id=carrier.tenant, at=stamp(month.start))
        return (await ask(services.invoices.PreviewInvoice, request)).invoice

    return await each(wanted, preview)


def _events(invoices: Sequence[invoices_pb2.Invoice], meter: str) -> int:
    return sum(line.event_count for invoice in invoices for line in invoice.lines if line.meter == meter)


def _total(invoices: Sequence[invoices_pb2.Invoice]) -> Decimal:
    return sum((Decimal(invoice.total) for invoice in invoices), Decimal(0))
