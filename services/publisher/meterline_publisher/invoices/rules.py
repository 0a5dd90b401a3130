"""Invoices and lines as stored. Field names are the columns' names."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from meterline.calendar import Period

# The id of invoices and lines in previews, which are not stored.
NO_ID = uuid.UUID(int=0)


class InvoiceState(StrEnum):
    """The state of an invoice; `finalized` and `disputed` result from the provider's final invoice."""

    OPEN = "open"
    PUBLISHED = "published"
    FINALIZED = "finalized"
    DISPUTED = "disputed"

    @property
    def final(self) -> bool:
        return self in (InvoiceState.FINALIZED, InvoiceState.DISPUTED)


@dataclass(frozen=True, slots=True)
class Invoice:
    """The invoice of one period of one tenant. Totals are in major units; `trace` is a traceparent of the
    last rating."""

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
    """One meter's line of an invoice. `billing_target` is the sum that the provider must have for it, scaled
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
