"""Invoices, lines and publications as they are kept. Field names are those of the tables."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from meterline_publisher.domain.periods import Period


class InvoiceState(StrEnum):
    """Where an invoice stands; `finalized` and `disputed` follow from the provider's final invoice."""

    OPEN = "open"
    PUBLISHED = "published"
    FINALIZED = "finalized"
    DISPUTED = "disputed"

    @property
    def final(self) -> bool:
        return self in (InvoiceState.FINALIZED, InvoiceState.DISPUTED)


@dataclass(frozen=True, slots=True)
class Invoice:
    """One period of one tenant. Totals are in major units; `trace` is a traceparent of the last rating."""

    tenant_id: int
    invoice_id: uuid.UUID
    plan: str
    currency: str
    period_start: datetime
    period_end: datetime
    state: str
    total: Decimal
    version: int
    rule_set_id: uuid.UUID
    external_invoice_id: str
    external_total: Decimal | None
    trace: str

    @property
    def period(self) -> Period:
        return Period(self.period_start, self.period_end)


@dataclass(frozen=True, slots=True)
class Line:
    """What one meter adds to an invoice. `billing_target` is what must be at the provider for it, scaled
    by 10^`billing_scale`; `provider_amount` is `exact_amount` rounded as the provider rounds."""

    tenant_id: int
    invoice_id: uuid.UUID
    line_id: uuid.UUID
    meter: str
    description: str
    quantity: Decimal
    amount: Decimal
    exact_amount: str
    provider_amount: Decimal
    price_version: int
    price_digest: str
    steps: list[dict[str, str]]
    calculation_id: uuid.UUID
    inputs_digest: str
    usage_value: Decimal
    usage_revision: int
    event_count: int
    billing_event_name: str
    billing_scale: int
    billing_target: Decimal | None
    trace: str


@dataclass(frozen=True, slots=True)
class Publication:
    """One meter event at the billing provider; see docs/services/publisher.md for its states.

    The value, the time and both keys are fixed when the row is written, so that every attempt sends the
    same bytes. `key_generation` rises when the provider keeps answering a stored failure.
    """

    tenant_id: int
    identifier: str
    seq: int
    invoice_id: uuid.UUID
    calculation_id: uuid.UUID
    meter: str
    period_start: datetime
    period_end: datetime
    revision: int
    value: Decimal
    event_name: str
    customer_id: str
    event_at: datetime
    key_generation: int
    state: str
    attempts: int
    first_attempt_at: datetime | None
    next_attempt_at: datetime
    sent_at: datetime | None
    error_code: str
    trace: str

    @property
    def period(self) -> Period:
        return Period(self.period_start, self.period_end)

    @property
    def idempotency_key(self) -> str:
        """Deterministic; asynchronous error reports of the provider name it."""
        suffix = f"#{self.key_generation}" if self.key_generation else ""
        return f"meterline:{self.identifier}{suffix}"


Place = tuple[int, datetime, str]
"""Where a list of gaps goes on: tenant, period start, and reason and meter as one text."""


@dataclass(frozen=True, slots=True)
class StoredGap:
    """A billing gap as it is kept. `since`: when it was found first."""

    tenant_id: int
    slug: str
    period_start: datetime
    period_end: datetime
    meter: str
    reason: str
    since: datetime
    detail: str
    quantity: Decimal | None

    @property
    def place(self) -> Place:
        return self.tenant_id, self.period_start, f"{self.reason}/{self.meter}"
