"""Stripe Billing Meters, through the official library and its own asynchronous HTTP client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar

import stamina
import stripe
from cachetools import TTLCache
from meterline.calendar import Period
from meterline.clock import Clock, to_datetime
from meterline.telemetry import metrics
from pydantic import SecretStr
from stripe.params import InvoiceListParams
from stripe.params.billing import MeterEventCreateParams

from meterline_publisher.providers.capabilities import Capabilities
from meterline_publisher.providers.port import (
    Delivery,
    ExternalInvoice,
    ProviderUnavailableError,
    RejectedError,
    UsageEvent,
)
from meterline_publisher.providers.stripe import amounts
from meterline_publisher.providers.stripe.capabilities import STRIPE
from meterline_publisher.providers.stripe.errors import failure_of, is_known, may_be_repeated, outcome

T = TypeVar("T")

# Stripe's period may end an hour before or after the tenant's month, since its anchor does not follow
# daylight-saving time.
_END_TOLERANCE: Final = timedelta(hours=2)
# An invoice is created when its period ends, or later when a test clock was advanced in one step.
_CREATED_AFTER_END: Final = timedelta(days=10)

_READ_ATTEMPTS: Final = 6
_READ_TIMEOUT: Final = 20.0
_MEMORY_SECONDS: Final = 600.0


class StripeProvider:
    """One Stripe account. `start` and `stop` may be called twice.

    The library retries nothing here: the sender retries from the ledger, and reads are repeated a few times,
    since nothing else would repeat them.
    """

    def __init__(self, key: SecretStr, *, api_base: str, timeout: float, clock: Clock) -> None:
        self._key = key
        self._api_base = api_base
        self._timeout = timeout
        self._clock = clock
        self._http: stripe.HTTPXClient | None = None
        self._api: stripe.StripeClient | None = None
        self._meters: TTLCache[str, str] = TTLCache(10_000, _MEMORY_SECONDS)
        self._test_clocks: TTLCache[str, str] = TTLCache(100_000, _MEMORY_SECONDS)

    @property
    def capabilities(self) -> Capabilities:
        return STRIPE

    @property
    def live(self) -> bool:
        return "_live_" in self._key.get_secret_value()[:8]

    async def start(self) -> None:
        if self._api is None:
            self._http = stripe.HTTPXClient(timeout=self._timeout)
            self._api = stripe.StripeClient(
                self._key.get_secret_value(),
                base_addresses={"api": self._api_base},
                http_client=self._http,
                max_network_retries=0,
            )

    async def stop(self) -> None:
        http, self._http, self._api = self._http, None, None
        if http is not None:
            await http.close_async()  # type: ignore[no-untyped-call]

    def require(self) -> None:
        """Does nothing: Stripe is configured."""

    async def now(self, customer: str) -> datetime:
        """This machine's time, or that of the test clock on which the customer was created."""
        test_clock = "" if self.live else await self._test_clock(customer)
        if not test_clock:
            return to_datetime(self._clock.now_us())
        clocks = self._client.v1.test_helpers.test_clocks
        found = await _read("test_clock", lambda: clocks.retrieve_async(test_clock))
        return datetime.fromtimestamp(found.frozen_time, UTC)

    async def send_usage(self, event: UsageEvent) -> Delivery:
        params: MeterEventCreateParams = {
            "event_name": event.event_name,
            "identifier": event.identifier,
            "payload": {"stripe_customer_id": event.customer, "value": str(int(event.value))},
            "timestamp": int(event.at.timestamp()),
        }
        try:
            # The client's own limit applies to each step of a call, and a call has several.
            async with asyncio.timeout(self._timeout):
                await self._client.v1.billing.meter_events.create_async(
                    params, {"idempotency_key": event.idempotency_key}
                )
        except (stripe.StripeError, TimeoutError) as error:
            if is_known(error):
                return _counted(Delivery.KNOWN)
            failure = failure_of(error)
            metrics.PROVIDER_CALLS.labels("send_usage", outcome(failure)).inc()
            raise failure from error
        return _counted(Delivery.ACCEPTED)

    async def usage_total(self, customer: str, event_name: str, period: Period) -> Decimal:
        meter = await self._meter(event_name)
        summaries = self._client.v1.billing.meters.event_summaries
        page = await _read(
            "event_summaries",
            lambda: summaries.list_async(
                meter,
                {
                    "customer": customer,
                    "start_time": int(period.start.timestamp()),
                    "end_time": int(period.end.timestamp()),
                },
            ),
        )
        # Without grouping there is one summary for the range, or none if it has no event.
        return sum((Decimal(summary.aggregated_value) for summary in page.data), Decimal(0))

    async def find_invoice(self, customer: str, subscription: str, period: Period) -> ExternalInvoice | None:
        params: InvoiceListParams = {
            "customer": customer,
            "created": {
                "gte": int((period.end - _END_TOLERANCE).timestamp()),
                "lte": int((period.end + _CREATED_AFTER_END).timestamp()),
            },
            "limit": 100,
        }
        if subscription:
            params["subscription"] = subscription
        page = await _read("invoices", lambda: self._client.v1.invoices.list_async(params))
        for invoice in page.data:
            ends = datetime.fromtimestamp(invoice.period_end, UTC)
            begins = datetime.fromtimestamp(invoice.period_start, UTC)
            if begins < period.end and abs(ends - period.end) <= _END_TOLERANCE:
                return _to_invoice(invoice)
        return None

    def decimals(self, currency: str) -> int:
        return amounts.decimals(currency)

    @property
    def _client(self) -> stripe.StripeClient:
        if self._api is None:
            raise ProviderUnavailableError("the billing provider is not started")
        return self._api

    async def _test_clock(self, customer: str) -> str:
        """The customer's test clock, empty if it has none; that never changes."""
        known = self._test_clocks.get(customer)
        if known is not None:
            return known
        found = await _read("customer", lambda: self._client.v1.customers.retrieve_async(customer))
        held = getattr(found, "test_clock", None)
        identifier = held if isinstance(held, str) else held.id if held is not None else ""
        self._test_clocks[customer] = identifier
        return identifier

    async def _meter(self, event_name: str) -> str:
        """The id of the meter with this event name. Raises RejectedError when there is none."""
        if event_name not in self._meters:
            self._meters.update(await _read("meters", self._load_meters))
        if event_name not in self._meters:
            raise RejectedError("no_meter", f"the provider has no meter named {event_name!r}")
        return self._meters[event_name]

    async def _load_meters(self) -> dict[str, str]:
        """All meters by event name; of several with one name the active one (at most one is)."""
        page = await self._client.v1.billing.meters.list_async({"limit": 100})
        found = [meter async for meter in page.auto_paging_iter()]
        found.sort(key=lambda meter: meter.status == "active")
        return {meter.event_name: meter.id for meter in found}


async def _read(operation: str, ask: Callable[[], Awaitable[T]]) -> T:
    """Repeats the read until there is an answer, a few times at most."""
    try:
        async for attempt in stamina.retry_context(
            on=may_be_repeated,
            attempts=_READ_ATTEMPTS,
            timeout=_READ_TIMEOUT,
            wait_initial=0.1,
            wait_max=2.0,
            wait_jitter=0.2,
        ):
            with attempt:
                found = await ask()
    except stripe.InvalidRequestError as error:
        metrics.PROVIDER_CALLS.labels(operation, "rejected").inc()
        raise RejectedError(error.code or "invalid_request", str(error.user_message)) from error
    except stripe.StripeError as error:
        metrics.PROVIDER_CALLS.labels(operation, "unavailable").inc()
        raise ProviderUnavailableError(f"Stripe, {operation}: {type(error).__name__}") from error
    metrics.PROVIDER_CALLS.labels(operation, "ok").inc()
    return found


def _counted(delivery: Delivery) -> Delivery:
    metrics.PROVIDER_CALLS.labels("send_usage", delivery.value).inc()
    return delivery


def _to_invoice(invoice: stripe.Invoice) -> ExternalInvoice:
    # Without taxes, which the provider adds: only the price of the usage must agree.
    amount: Any = invoice.total_excluding_tax
    return ExternalInvoice(
        invoice_id=str(invoice.id),
        final=invoice.status != "draft",
        void=invoice.status == "void",
        currency=invoice.currency.upper(),
        total=amounts.major(invoice.total if amount is None else int(amount), invoice.currency),
    )
