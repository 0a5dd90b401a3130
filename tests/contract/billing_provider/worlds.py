"""The two environments of the contract tests: the fake in memory, and Stripe's double."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Protocol

from meterline.calendar import Period
from meterline.clock import to_datetime
from meterline_dev.stripe_double.faults import Kind
from meterline_publisher.providers.port import BillingProvider, ExternalInvoice
from meterline_publisher.providers.stripe.provider import StripeProvider
from pydantic import SecretStr
from stripe.billing import Meter

from tests.contract.stripe_double.lab import Lab
from tests.support.clocks import ShiftedClock
from tests.support.fake_billing import FakeBilling, busy, lost, saved_failure

EVENTS = "/v1/billing/meter_events"
KEY = SecretStr("rk_test_contract")


class World(Protocol):
    """The steps that a contract test arranges, independent of the provider."""

    @property
    def provider(self) -> BillingProvider: ...

    def meter(self) -> str:
        """Creates a meter; returns its event name."""

    def customer(self, at: datetime | None = None) -> str:
        """Creates a customer, with `at` on a test clock at that time."""

    def subscribe(self, customer: str, event_name: str, period: Period) -> str:
        """Bills the customer 0.01 USD a unit at the period's end; returns the subscription."""

    def pass_to(self, customer: str, at: datetime) -> None:
        """Advances the customer's test clock, including everything due until then."""

    def forget(self) -> None:
        """Lets 24 hours pass on the provider's own clock."""

    def be_busy(self) -> None:
        """Refuses the next event without storing it."""

    def lose(self, *, after: bool) -> None:
        """Loses the answer of the next event, before or after the event is stored."""

    def fail_and_remember(self) -> None:
        """Answers the next event with an error that is stored under its idempotency key."""


class StripeWorld:
    """The adapter, the official library, and the double."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._lab.control.clear_faults()
        self._lab.control.follow_real_time()
        self._meters: dict[str, Meter] = {}
        self._clocks: dict[str, str] = {}
        self.clock = ShiftedClock(datetime.now(UTC))
        self.provider: BillingProvider = StripeProvider(
            KEY, api_base=lab.address, timeout=5.0, clock=self.clock
        )

    def meter(self) -> str:
        meter = self._lab.meter()
        self._meters[meter.event_name] = meter
        return meter.event_name

    def customer(self, at: datetime | None = None) -> str:
        if at is None:
            return self._lab.customer()
        clock = self._lab.clock(int(at.timestamp()))
        customer = self._lab.customer(clock)
        self._clocks[customer] = clock
        return customer

    def subscribe(self, customer: str, event_name: str, period: Period) -> str:
        price = self._lab.price(self._meters[event_name], unit_amount=1)
        end = str(int(period.end.timestamp()))
        metadata = {"meterline_period_boundaries": end}
        return str(self._lab.subscribe(customer, price, metadata=metadata).id)

    def pass_to(self, customer: str, at: datetime) -> None:
        self._lab.advance(self._clocks[customer], int(at.timestamp()))

    def forget(self) -> None:
        self._lab.control.advance(24 * 3_600_000)

    def be_busy(self) -> None:
        self._lab.control.add_fault(EVENTS, Kind.RATE_LIMIT_429, next_n=1)

    def lose(self, *, after: bool) -> None:
        kind = Kind.TIMEOUT_AFTER_ACCEPT if after else Kind.TIMEOUT_BEFORE
        self._lab.control.add_fault(EVENTS, kind, next_n=1)

    def fail_and_remember(self) -> None:
        self._lab.control.add_fault(EVENTS, Kind.ERROR_500_SAVED, next_n=1)


class FakeWorld:
    """The fake that other tests use instead of a provider."""

    def __init__(self) -> None:
        self._numbers: Iterator[int] = count(1)
        self._subscriptions: dict[str, tuple[str, str, Period]] = {}
        self._clock = ShiftedClock(datetime.now(UTC))
        self._fake = FakeBilling(lambda: to_datetime(self._clock.now_us()))
        self.provider: BillingProvider = self._fake

    def meter(self) -> str:
        name = f"event_{next(self._numbers)}"
        self._fake.meters.add(name)
        return name

    def customer(self, at: datetime | None = None) -> str:
        customer = f"cus_{next(self._numbers)}"
        if at is not None:
            self._fake.clocks[customer] = at
        return customer

    def subscribe(self, customer: str, event_name: str, period: Period) -> str:
        self._subscriptions[customer] = (f"sub_{next(self._numbers)}", event_name, period)
        return self._subscriptions[customer][0]

    def pass_to(self, customer: str, at: datetime) -> None:
        self._fake.clocks[customer] = at
        _, event_name, period = self._subscriptions[customer]
        if at < period.end:
            return
        total = sum(
            (
                kept.event.value
                for kept in self._fake.kept
                if kept.event.customer == customer and kept.event.event_name == event_name
            ),
            Decimal(0),
        )
        final = at >= period.end + timedelta(hours=1)
        self._fake.invoices[customer, period.end] = ExternalInvoice(
            f"in_{customer}", final, False, "USD", total / 100
        )

    def forget(self) -> None:
        self._clock.advance(timedelta(hours=24))

    def be_busy(self) -> None:
        self._fake.faults.append(busy())

    def lose(self, *, after: bool) -> None:
        self._fake.faults.append(lost(after=after))

    def fail_and_remember(self) -> None:
        self._fake.faults.append(saved_failure())
