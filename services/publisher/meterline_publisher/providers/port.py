"""The interface of billing providers, and how calls to them can fail."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from meterline.calendar import Period
from meterline.errors import MeterlineError, UnavailableError

from meterline_publisher.providers.capabilities import Capabilities


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """A difference to add to a customer's meter. `value` is whole; `at` is in whole seconds."""

    identifier: str
    idempotency_key: str
    event_name: str
    customer: str
    value: Decimal
    at: datetime


class Delivery(StrEnum):
    """The result of sending; with either one the provider has the event."""

    ACCEPTED = "accepted"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class ExternalInvoice:
    """The compared fields of the provider's invoice; `total` is in major units, without taxes."""

    invoice_id: str
    final: bool
    void: bool
    currency: str
    total: Decimal


class RejectedError(MeterlineError):
    """The provider will never accept this event. `code` is the provider's own, or `invalid_request`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BusyError(MeterlineError):
    """The provider did not process the call: limits, locks, refused keys. It is safe to repeat."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AmbiguousError(MeterlineError):
    """The event may or may not have arrived. `replayed` means that the provider repeated its stored answer to
    the idempotency key, so that only another key can bring a new answer."""

    def __init__(self, code: str, message: str, *, replayed: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.replayed = replayed


class ProviderUnavailableError(UnavailableError):
    """The provider did not answer a read; it is safe to repeat."""


class BillingProvider(Protocol):
    """A billing provider. All methods but `require` and `decimals` do I/O; those that read raise
    ProviderUnavailableError, and RejectedError for ids that the provider does not know."""

    @property
    def capabilities(self) -> Capabilities:
        """What it accepts; constant while the process runs."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def require(self) -> None:
        """Raises NotBillableError if no provider is configured; called before anything that needs one."""

    async def now(self, customer: str) -> datetime:
        """The time on the provider's clock for this customer."""

    async def send_usage(self, event: UsageEvent) -> Delivery:
        """Adds the event at most once per identifier, as long as the provider remembers the identifier.

        Raises RejectedError, BusyError or AmbiguousError.
        """

    async def usage_total(self, customer: str, event_name: str, period: Period) -> Decimal:
        """The provider's sum of the period's events; may lag behind what was sent."""

    async def find_invoice(self, customer: str, subscription: str, period: Period) -> ExternalInvoice | None:
        """The invoice of the period, if there is one yet. `subscription` may be empty."""

    def decimals(self, currency: str) -> int:
        """The number of decimals to which the provider bills in this currency."""
