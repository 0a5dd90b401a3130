"""The past months are closed one after another, as in real time: usage is sent shortly before a month
ends, Stripe creates and finalises its invoice, and the two invoices are compared.

Stripe accepts usage of the last 35 days, and none from the future of a customer's clock. Test clocks set a
customer's time: they begin at the start of the first month, and are advanced month by month.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from meterline_protos.publisher.v1 import invoices_pb2, publications_pb2

from meterline_dev.demo.calls import Services, ask, each, looks
from meterline_dev.demo.carriers import CARRIERS, Carrier
from meterline_dev.demo.errors import DemoError
from meterline_dev.demo.months import Month
from meterline_dev.demo.setup import CLOSE_LEAD
from meterline_dev.demo.state import State
from meterline_dev.demo.stripe_account import StripeAccount
from meterline_dev.demo.sums import invoice_month, stamp

Reconciled: TypeAlias = publications_pb2.ReconcilePeriodResponse
Invoices: TypeAlias = Mapping[tuple[str, Month], invoices_pb2.Invoice]

# Stripe finalises an invoice an hour after its period ends.
_FINALISED_AFTER: Final = timedelta(hours=1, minutes=5)
# The period of a real account may end an hour later than the tenant's month: its anchor is in UTC.
_SLACK: Final = timedelta(hours=1)
_SETTLE_SECONDS: Final = 120.0

_FINAL: Final = (invoices_pb2.INVOICE_STATE_FINALIZED, invoices_pb2.INVOICE_STATE_DISPUTED)


class Closing:
    """`progress` is called with numbers of invoices that are at Stripe, or were there before."""

    def __init__(
        self,
        services: Services,
        account: StripeAccount,
        state: State,
        progress: Callable[[int], None],
    ) -> None:
        self._services = services
        self._account = account
        self._state = state
        self._progress = progress

    async def run(self, months: Sequence[Month], now: datetime) -> Invoices:
        """Closes every month that is over by `now`, and publishes the running one so far.

        Answers with all invoices by tenant and month. Repeatable: what is final stays as it is.
        """
        known = await self._invoices()
        clocks: dict[str, list[Carrier]] = {}
        for carrier in CARRIERS:
            clocks.setdefault(self._state.tenants[carrier.tenant].clock, []).append(carrier)

        async def live_through(group: tuple[str, list[Carrier]]) -> None:
            clock, carriers = group
            for month in months:
                left = [one for one in carriers if not _is_final(known.get((one.tenant, month)))]
                self._progress(len(carriers) - len(left))
                if month.end <= now:
                    await self._close(clock, left, month)
                else:
                    await self._publish(left, month)

        await each(clocks.items(), live_through)
        return await self._invoices()

    async def _close(self, clock: str, carriers: Sequence[Carrier], month: Month) -> None:
        # A run that was interrupted may have left a clock beyond the month, with all usage sent.
        if await self._account.time(clock) < month.end:
            await self._account.advance(clock, month.end - CLOSE_LEAD)
            await self._publish(carriers, month)
            # Stripe adds up what it was sent after a while, and an invoice does not wait for that.
            await each(carriers, lambda carrier: self._reconcile(carrier, month, _is_counted))
            await self._account.advance(clock, month.end + _FINALISED_AFTER + _SLACK)
        await each(carriers, lambda carrier: self._reconcile(carrier, month, _is_settled))

    async def _publish(self, carriers: Sequence[Carrier], month: Month) -> None:
        await each(carriers, lambda carrier: self._publish_one(carrier, month))

    async def _publish_one(self, carrier: Carrier, month: Month) -> None:
        """Until everything is at Stripe: a call answers after a while with what is still on its way."""
        request = publications_pb2.PublishUsageRequest(tenant_id=carrier.tenant, at=stamp(month.start))
        publish = self._services.publications.PublishUsage
        async for answer in looks(lambda: ask(publish, request), _SETTLE_SECONDS):
            if answer.invoice.state == invoices_pb2.INVOICE_STATE_PUBLISHED:
                self._progress(1)
                return
        raise DemoError(f"the usage of {carrier.name}, {month.title}, is not all at Stripe")

    async def _reconcile(self, carrier: Carrier, month: Month, enough: Callable[[Reconciled], bool]) -> None:
        """Compares a month with Stripe until it is as it should be."""
        request = publications_pb2.ReconcilePeriodRequest(tenant_id=carrier.tenant, at=stamp(month.start))
        reconcile = self._services.publications.ReconcilePeriod
        async for answer in looks(lambda: ask(reconcile, request), _SETTLE_SECONDS):
            if enough(answer):
                return
        raise DemoError(f"Stripe's part of {carrier.name}, {month.title}, is not what it should be: {answer}")

    async def _invoices(self) -> Invoices:
        found = await each(CARRIERS, self._invoices_of)
        return {(one.tenant_id, invoice_month(one)): one for invoices in found for one in invoices}

    async def _invoices_of(self, carrier: Carrier) -> list[invoices_pb2.Invoice]:
        found: list[invoices_pb2.Invoice] = []
        request = invoices_pb2.ListInvoicesRequest(tenant_id=carrier.tenant)
        while True:
            answer = await ask(self._services.invoices.ListInvoices, request)
            found.extend(answer.invoices)
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token


def _is_counted(answer: Reconciled) -> bool:
    """Whether Stripe's sums are those that were sent."""
    return all(meter.agrees for meter in answer.meters)


def _is_settled(answer: Reconciled) -> bool:
    """Whether Stripe's invoice is final, and ours with it."""
    return answer.invoice.state in _FINAL


def _is_final(invoice: invoices_pb2.Invoice | None) -> bool:
    return invoice is not None and invoice.state in _FINAL
