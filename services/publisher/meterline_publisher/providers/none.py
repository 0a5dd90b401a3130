"""Runs the service without a billing provider: usage is counted, rated and explained, but not sent."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NoReturn

from meterline.bounds import MAX_VALUE_DIGITS
from meterline.calendar import Period
from meterline.telemetry.logging import logger

from meterline_publisher.billing.money import currency as known_currency
from meterline_publisher.gaps.rules import GapReason, NotBillableError
from meterline_publisher.providers.capabilities import Capabilities
from meterline_publisher.providers.port import Delivery, ExternalInvoice, UsageEvent

log = logger()


class NoProvider:
    """The BillingProvider where none is configured. Methods that need a provider raise NotBillableError with
    the reason NO_BILLING_PROVIDER.

    chosen: the name that a tenant chose; empty if it chose none
    """

    capabilities: Final = Capabilities(
        name="none",
        bills=False,
        max_digits=2 * MAX_VALUE_DIGITS,
        max_identifier=100,
        identifier_memory=timedelta(0),
        period_edge=timedelta(0),
        exact_sums_below=10 ** (2 * MAX_VALUE_DIGITS),
    )

    def __init__(self, chosen: str = "") -> None:
        self._chosen = chosen

    async def start(self) -> None:
        log.info("billing.no_provider", setting="METERLINE_STRIPE_API_KEY")

    async def stop(self) -> None:
        """Has nothing to close."""

    def require(self) -> NoReturn:
        if self._chosen:
            raise NotBillableError(
                GapReason.NO_BILLING_PROVIDER,
                f"billing provider {self._chosen}",
                "is not configured here, so nothing is sent; configure it, or choose another for the tenant,"
                " and what was held is sent by the next close",
            )
        raise NotBillableError(
            GapReason.NO_BILLING_PROVIDER,
            "billing provider",
            "none is configured, so nothing is sent; set METERLINE_STRIPE_API_KEY, and what was held is sent"
            " by the next close",
        )

    async def now(self, customer: str) -> datetime:
        self.require()

    async def send_usage(self, event: UsageEvent) -> Delivery:
        self.require()

    async def usage_total(self, customer: str, event_name: str, period: Period) -> Decimal:
        self.require()

    async def find_invoice(self, customer: str, subscription: str, period: Period) -> ExternalInvoice | None:
        self.require()

    def decimals(self, currency: str) -> int:
        """The decimals of the currency's minor unit."""
        return known_currency(currency).exponent
