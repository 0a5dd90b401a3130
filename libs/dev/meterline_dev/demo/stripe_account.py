"""The demo's side of Stripe, through the official library: a real account in test mode, or the double."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Self

import stripe

from meterline_dev.demo.calls import each, looks
from meterline_dev.demo.carriers import CURRENCY, Carrier
from meterline_dev.demo.errors import DemoError
from meterline_dev.demo.meters import METERS, DemoMeter
from meterline_dev.demo.months import Month
from meterline_dev.demo.plans import PLANS, stripe_price
from meterline_dev.demo.state import BilledAt

# Stripe takes at most so many customers on one test clock.
CUSTOMERS_ON_A_CLOCK: Final = 3
# A test account takes 25 calls a second, of which the publisher needs some.
AT_ONCE: Final = 4
_RETRIES: Final = 5
_ADVANCE_SECONDS: Final = 300.0
# The double ends its periods here, as the tenant's months do. Stripe itself keeps to its anchor in UTC.
_BOUNDARIES: Final = "meterline_period_boundaries"
_KNOWN_MONTHS: Final = 24

PriceIds = Mapping[tuple[str, str], str]


class StripeAccount:
    """Use it as `async with`. Errors of Stripe are DemoErrors here."""

    def __init__(self, key: str, address: str) -> None:
        if "_live_" in key[:8]:
            raise DemoError("the demo makes customers and invoices: give it a key of Stripe's test mode")
        self._http = stripe.HTTPXClient()
        self._client = stripe.StripeClient(
            key, base_addresses={"api": address}, http_client=self._http, max_network_retries=_RETRIES
        )
        self._api = self._client.v1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]
        if isinstance(error, stripe.StripeError):
            raise DemoError(f"Stripe: {error.user_message or error}") from error

    # --- making things

    async def meters(self) -> dict[str, str]:
        """Ids of the demo's meters by event name; those that the account lacks are made."""
        page = await self._api.billing.meters.list_async({"status": "active", "limit": 100})
        known = {meter.event_name: meter.id async for meter in page.auto_paging_iter()}
        missing = [meter for meter in METERS if meter.billing_event_name not in known]
        made = await each(missing, self._create_meter, AT_ONCE)
        return {meter.billing_event_name: known.get(meter.billing_event_name, "") for meter in METERS} | {
            meter.event_name: meter.id for meter in made
        }

    async def _create_meter(self, meter: DemoMeter) -> stripe.billing.Meter:
        return await self._api.billing.meters.create_async(
            {
                "event_name": meter.billing_event_name,
                "display_name": f"{meter.title} (Meterline demo)",
                # Meterline sends differences, whatever its own meter does.
                "default_aggregation": {"formula": "sum"},
            }
        )

    async def prices(self, meters: Mapping[str, str]) -> PriceIds:
        """Ids of prices by plan and meter; those that the account lacks are made."""
        wanted = [(plan, meter) for plan in PLANS for meter in METERS]
        found = await each(wanted, lambda one: self._price(*one, meters[one[1].billing_event_name]), AT_ONCE)
        return {(plan, meter.name): price for (plan, meter), price in zip(wanted, found, strict=True)}

    async def _price(self, plan: str, meter: DemoMeter, stripe_meter: str) -> str:
        terms = stripe_price(PLANS[plan][meter.name])
        # A price cannot change, so what it says is part of the name that it is found by.
        said = json.dumps([terms, stripe_meter], sort_keys=True).encode()
        lookup = f"meterline-demo-{plan}-{meter.name}-{hashlib.sha256(said).hexdigest()[:16]}"
        known = await self._api.prices.list_async({"lookup_keys": [lookup]})
        if known.data:
            return known.data[0].id
        params: Any = {
            "currency": CURRENCY.lower(),
            "lookup_key": lookup,
            "product_data": {"name": f"{meter.title}, plan {plan}"},
            "recurring": {"interval": "month", "usage_type": "metered", "meter": stripe_meter},
            **terms,
        }
        return (await self._api.prices.create_async(params)).id

    async def subscribe(
        self, carriers: Sequence[Carrier], prices: PriceIds, first: Month, run: str
    ) -> dict[str, BilledAt]:
        """Creates a customer with a monthly subscription for each carrier, on test clocks set to the
        beginning of `first`. The same `run` gets the same objects again."""
        groups = [
            carriers[start : start + CUSTOMERS_ON_A_CLOCK]
            for start in range(0, len(carriers), CUSTOMERS_ON_A_CLOCK)
        ]
        clocks = await each(
            range(len(groups)), lambda number: self._create_clock(number, first, run), AT_ONCE
        )
        placed = [(carrier, clock) for group, clock in zip(groups, clocks, strict=True) for carrier in group]
        made = await each(placed, lambda one: self._subscribe(*one, prices, first, run), AT_ONCE)
        return {carrier.tenant: billed for (carrier, _), billed in zip(placed, made, strict=True)}

    async def _create_clock(self, number: int, first: Month, run: str) -> str:
        clock = await self._api.test_helpers.test_clocks.create_async(
            {"frozen_time": _seconds(first.start), "name": f"Meterline demo {run[:8]}/{number}"},
            {"idempotency_key": f"{run}:clock:{number}"},
        )
        return clock.id

    async def _subscribe(
        self, carrier: Carrier, clock: str, prices: PriceIds, first: Month, run: str
    ) -> BilledAt:
        customer = await self._api.customers.create_async(
            {"name": carrier.name, "metadata": {"meterline_tenant": carrier.tenant}, "test_clock": clock},
            {"idempotency_key": f"{run}:customer:{carrier.tenant}"},
        )
        subscription = await self._api.subscriptions.create_async(
            {
                "customer": customer.id,
                "items": [{"price": prices[carrier.plan, meter.name]} for meter in METERS],
                "collection_method": "send_invoice",
                "days_until_due": 30,
                "metadata": {_BOUNDARIES: ",".join(map(str, _ends(first)))},
            },
            {"idempotency_key": f"{run}:subscription:{carrier.tenant}"},
        )
        return BilledAt(clock, customer.id, subscription.id)

    # --- time

    async def time(self, clock: str) -> datetime:
        """The time of a test clock."""
        found = await self._api.test_helpers.test_clocks.retrieve_async(clock)
        return datetime.fromtimestamp(found.frozen_time, UTC)

    async def advance(self, clock: str, to: datetime) -> None:
        """Moves a test clock forward and waits until everything on the way has happened; does nothing
        when it is there already."""
        clocks, target = self._api.test_helpers.test_clocks, _seconds(to)
        async for found in looks(lambda: clocks.retrieve_async(clock), _ADVANCE_SECONDS):
            if found.status == "internal_failure":
                break
            if found.status == "ready":
                if found.frozen_time >= target:
                    return
                await clocks.advance_async(clock, {"frozen_time": target})
        raise DemoError(f"Stripe's test clock {clock} did not arrive at {to:%d %b %Y}: {found.status}")

    # --- what Stripe says itself

    async def usage(self, customer: str, meter: str, month: Month) -> Decimal:
        """What Stripe's summary says that a customer used in a month."""
        page = await self._api.billing.meters.event_summaries.list_async(
            meter,
            {"customer": customer, "start_time": _seconds(month.start), "end_time": _seconds(month.end)},
        )
        # Whole numbers far below 2^53, so the floats are exact.
        return sum((Decimal(summary.aggregated_value) for summary in page.data), Decimal(0))

    async def invoice_total(self, invoice: str) -> tuple[str, Decimal]:
        """Status and total of an invoice, in dollars."""
        found = await self._api.invoices.retrieve_async(invoice)
        return str(found.status), Decimal(found.total) / 100


def _ends(first: Month) -> list[int]:
    ends, month = [], first
    for _ in range(_KNOWN_MONTHS):
        ends.append(_seconds(month.end))
        month = month.next
    return ends


def _seconds(at: datetime) -> int:
    return int(at.astimezone(UTC).timestamp())
