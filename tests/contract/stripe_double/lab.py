"""Stripe objects of one test, created through the official library only."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import stripe
from meterline_dev.stripe_double import ControlClient, advance_test_clock

DAY = 86_400
CONTROL_KEY = "the-control-key-of-tests"
_names = itertools.count()


def instant(text: str) -> int:
    """Unix seconds of an ISO 8601 instant; UTC by default."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def client(address: str, *, key: str = "sk_test_lab", retries: int = 0) -> stripe.StripeClient:
    return stripe.StripeClient(key, base_addresses={"api": address}, max_network_retries=retries)


@dataclass
class Lab:
    """Shortcuts for one client and the control client of its double. Every created name is unique."""

    address: str
    control: ControlClient
    api: stripe.StripeClient = field(init=False)

    def __post_init__(self) -> None:
        self.api = client(self.address)

    def name(self, prefix: str = "name") -> str:
        return f"{prefix}_{next(_names)}"

    def meter(self, formula: str = "sum", **more: Any) -> stripe.billing.Meter:
        params: Any = {
            "display_name": "A meter",
            "event_name": self.name("event"),
            "default_aggregation": {"formula": formula},
            **more,
        }
        return self.api.v1.billing.meters.create(params)

    def price(self, meter: stripe.billing.Meter, **terms: Any) -> stripe.Price:
        params: Any = {
            "currency": "usd",
            "product_data": {"name": "Calls"},
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            **(terms or {"unit_amount": 1}),
        }
        return self.api.v1.prices.create(params)

    def clock(self, at: int) -> str:
        return self.api.v1.test_helpers.test_clocks.create({"frozen_time": at}).id

    def customer(self, clock: str | None = None, **more: Any) -> str:
        on_clock = {"test_clock": clock} if clock else {}
        params: Any = {"name": "Acme", **on_clock, **more}
        return self.api.v1.customers.create(params).id

    def subscribe(self, customer: str, *prices: stripe.Price, **more: Any) -> stripe.Subscription:
        items = [{"price": price.id} for price in prices]
        params: Any = {"customer": customer, "items": items, **more}
        return self.api.v1.subscriptions.create(params)

    def send(
        self,
        meter: stripe.billing.Meter,
        customer: str,
        value: object = 1,
        *,
        at: int | None = None,
        identifier: str | None = None,
        key: str | None = None,
    ) -> stripe.billing.MeterEvent:
        params: Any = {
            "event_name": meter.event_name,
            "identifier": identifier or self.name("id"),
            "payload": {"stripe_customer_id": customer, "value": str(value)},
        }
        if at is not None:
            params["timestamp"] = at
        options: Any = {"idempotency_key": key} if key else {}
        return self.api.v1.billing.meter_events.create(params, options)

    def advance(self, clock: str, to: int) -> None:
        advance_test_clock(self.api, clock, to)

    def invoices(self, subscription: str) -> Sequence[stripe.Invoice]:
        """All invoices of a subscription, oldest first."""
        found = self.api.v1.invoices.list({"subscription": subscription, "limit": 100})
        return found.data[::-1]

    def invoice(self, subscription: str) -> stripe.Invoice:
        """The only invoice of a subscription."""
        (found,) = self.invoices(subscription)
        return found

    def total(self, meter: stripe.billing.Meter, customer: str, start: int, end: int) -> float | None:
        """The meter's summary over a range, None where Stripe lists none."""
        found = self.api.v1.billing.meters.event_summaries.list(
            meter.id, {"customer": customer, "start_time": start, "end_time": end}
        )
        return found.data[0].aggregated_value if found.data else None


def period(subscription: stripe.Subscription) -> tuple[int, int]:
    item = subscription["items"].data[0]
    return item.current_period_start, item.current_period_end
