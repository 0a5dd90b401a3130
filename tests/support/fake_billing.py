"""A fake billing provider in memory, for tests that do not depend on Stripe. It passes the same contract
tests as the real adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from meterline.calendar import Period
from meterline_publisher.providers.capabilities import Capabilities
from meterline_publisher.providers.port import (
    AmbiguousError,
    BusyError,
    Delivery,
    ExternalInvoice,
    RejectedError,
    UsageEvent,
)
from meterline_publisher.providers.registry import Providers
from meterline_publisher.providers.stripe.capabilities import STRIPE

MEMORY = timedelta(hours=24)
OLDEST, NEWEST = timedelta(days=35), timedelta(minutes=5)
MAX_DIGITS = 15


@dataclass
class _Kept:
    event: UsageEvent
    received_at: datetime


@dataclass
class FakeBilling:
    """`clock` is the provider's time; customers in `clocks` have their own test clocks. `name`: as tenants
    choose it."""

    clock: Callable[[], datetime]
    name: str = STRIPE.name
    customers: set[str] = field(default_factory=set)
    clocks: dict[str, datetime] = field(default_factory=dict)
    meters: set[str] = field(default_factory=set)
    invoices: dict[tuple[str, datetime], ExternalInvoice] = field(default_factory=dict)
    # Errors of the next sends, one each, raised before the event is stored, or (True) after.
    faults: list[tuple[Exception, bool]] = field(default_factory=list)
    kept: list[_Kept] = field(default_factory=list)
    saved_failures: set[str] = field(default_factory=set)
    answered: dict[str, datetime] = field(default_factory=dict)
    calls: int = 0

    @property
    def capabilities(self) -> Capabilities:
        return replace(STRIPE, name=self.name)

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    def require(self) -> None:
        """Does nothing: the fake is always configured."""

    async def now(self, customer: str) -> datetime:
        return self.clocks.get(customer) or self.clock()

    async def send_usage(self, event: UsageEvent) -> Delivery:
        self.calls += 1
        fault, after = self.faults.pop(0) if self.faults else (None, False)
        if fault is not None and not after:
            self._save(event, fault)
            raise fault
        delivery = await self._keep(event)
        if fault is not None:
            raise fault
        return delivery

    async def usage_total(self, customer: str, event_name: str, period: Period) -> Decimal:
        if event_name not in self.meters:
            raise RejectedError("no_meter", event_name)
        return sum(
            (
                kept.event.value
                for kept in self.kept
                if (kept.event.customer, kept.event.event_name) == (customer, event_name)
                and kept.event.at in period
            ),
            Decimal(0),
        )

    async def find_invoice(self, customer: str, subscription: str, period: Period) -> ExternalInvoice | None:
        return self.invoices.get((customer, period.end))

    def decimals(self, currency: str) -> int:
        return {"JPY": 0, "ISK": 0}.get(currency, 2)

    def _save(self, event: UsageEvent, fault: Exception) -> None:
        if isinstance(fault, AmbiguousError) and fault.code == "saved":
            self.saved_failures.add(event.idempotency_key)

    async def _keep(self, event: UsageEvent) -> Delivery:
        if event.idempotency_key in self.saved_failures:
            raise AmbiguousError("saved", "answered from memory", replayed=True)
        answered_at = self.answered.get(event.idempotency_key)
        if answered_at is not None and self.clock() - answered_at < MEMORY:
            return Delivery.ACCEPTED
        now = await self.now(event.customer)
        if event.event_name not in self.meters:
            raise RejectedError("no_meter", event.event_name)
        if len(str(abs(int(event.value)))) > MAX_DIGITS:
            raise RejectedError("meter_event_value_too_many_digits", str(event.value))
        if event.at < now - OLDEST:
            raise RejectedError("timestamp_too_far_in_past", str(event.at))
        if event.at > now + NEWEST:
            raise RejectedError("timestamp_in_future", str(event.at))
        received_at = self.clock()
        if any(
            kept.event.identifier == event.identifier and received_at - kept.received_at < MEMORY
            for kept in self.kept
        ):
            return Delivery.KNOWN
        self.kept.append(_Kept(event, received_at))
        self.answered[event.idempotency_key] = received_at
        return Delivery.ACCEPTED


def registry(*providers: FakeBilling) -> Providers:
    """These are configured; tenants that chose none are the first one's."""
    return Providers(providers, default=providers[0].capabilities.name)


def busy() -> tuple[Exception, bool]:
    return BusyError("rate_limit", "too many"), False


def lost(*, after: bool) -> tuple[Exception, bool]:
    """Loses the answer of the next call, before or after the event is stored."""
    return AmbiguousError("connection", "cut"), after


def saved_failure() -> tuple[Exception, bool]:
    return AmbiguousError("saved", "an error that the provider remembers under the key"), False
