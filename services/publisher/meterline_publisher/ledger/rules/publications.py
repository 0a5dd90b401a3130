"""Rows of the ledger as they are kept. Field names are those of the table."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from meterline.calendar import Period


class PublicationState(StrEnum):
    """Where a row of the ledger stands. `sent` and `rejected` are final."""

    PENDING = "pending"
    AMBIGUOUS = "ambiguous"
    SENT = "sent"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Publication:
    """One event at the billing provider; see docs/services/publisher.md for its states.

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
    provider: str

    @property
    def period(self) -> Period:
        return Period(self.period_start, self.period_end)

    @property
    def idempotency_key(self) -> str:
        """Deterministic; asynchronous error reports of the provider name it."""
        suffix = f"#{self.key_generation}" if self.key_generation else ""
        return f"meterline:{self.identifier}{suffix}"
