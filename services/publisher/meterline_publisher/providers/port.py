"""What the publisher needs of a billing provider, and how calls to one can fail."""

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
    """A difference to be added to a customer's meter. `value` is whole; `at` is in whole seconds."""

    identifier: str
    idempotency_key: str
    event_name: str
    customer: str
    value: Decimal
    at: datetime


class Delivery(StrEnum):
    """Both mean that the provider has the event."""

    ACCEPTED = "accepted"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class ExternalInvoice:
    """What is compared of the provider's invoice; `total` is in major units, without taxes."""

    invoice_id: str
    final: bool
    void: bool
    currency: str
    total: Decimal


class RejectedError(MeterlineError):
    """The provider will never take this event. `code` is the provider's own, or `invalid_request`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BusyError(MeterlineError):
    """The provider did not look at the call: limits, locks, refused keys. It is safe to repeat it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AmbiguousError(MeterlineError):
    """The event may or may not have arrived. `replayed` says that the provider answers from its memory of
    the idempotency key, so that only another key can bring another answer."""

    def __init__(self, code: str, message: str, *, replayed: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.replayed = replayed


class ProviderUnavailableError(UnavailableError):
    """The provider does not answer a question; it is safe to ask again."""


class BillingProvider(Protocol):
    """A billing provider. All methods but `require` and `decimals` do I/O; those that read raise
    ProviderUnavailableError, and RejectedError for what the provider does not know."""

    @property
    def capabilities(self) -> Capabilities:
        """What it takes; the same for as long as the process runs."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def require(self) -> None:
        """Raises NotBillableError where no provider is configured; asked before anything that needs one."""

    async def now(self, customer: str) -> datetime:
        """The time on the provider's clock for this customer."""

    async def send_usage(self, event: UsageEvent) -> Delivery:
        """Adds the event at most once for its identifier, as long as the provider remembers that.

        Raises RejectedError, BusyError or AmbiguousError.
        """

    async def usage_total(self, customer: str, event_name: str, period: Period) -> Decimal:
        """The sum of the events that the provider holds for the period; may lag behind what was sent."""

    async def find_invoice(self, customer: str, subscription: str, period: Period) -> ExternalInvoice | None:
        """The invoice of the period, if there is one yet. `subscription` may be empty."""

    def decimals(self, currency: str) -> int:
        """To how many decimals the provider bills in this currency."""
