"""Rows of the ledger as stored. Field names are the columns' names."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from meterline.calendar import Period


class PublicationState(StrEnum):
    """The state of a row of the ledger. `sent` and `rejected` are final."""

    PENDING = "pending"
    AMBIGUOUS = "ambiguous"
    SENT = "sent"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Publication:
    """One event for the billing provider; docs/services/publisher.md describes its states.

    The value, the time and the identifier are fixed when the row is written, so that every attempt sends the
    same event. `key_generation` rises when the provider keeps repeating a stored failure.
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
    provider: str

    @property
    def period(self) -> Period:
        return Period(self.period_start, self.period_end)

    @property
    def idempotency_key(self) -> str:
        """Deterministic, since the provider's asynchronous error reports name it."""
        suffix = f"#{self.key_generation}" if self.key_generation else ""
        return f"meterline:{self.identifier}{suffix}"
