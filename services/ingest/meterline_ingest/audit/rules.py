"""Requests for changes, and entries and filters of the audit log."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from meterline.errors import InvalidArgumentError

MAX_PRINCIPAL: Final = 128
MAX_REASON: Final = 500

# The principal of what the service does by itself.
SERVICE: Final = "meterline-ingest"

KEY_ROTATED: Final = "tenant_key.rotated"
TENANT_SHREDDED: Final = "tenant.shredded"
QUARANTINE_UNSEALED: Final = "quarantine.unsealed"
QUARANTINE_REPLAYED: Final = "quarantine.replayed"
QUARANTINE_DISCARDED: Final = "quarantine.discarded"
QUARANTINE_EXPIRED: Final = "quarantine.expired"
EVENT_AMENDED: Final = "event.amended"
EVENT_RETRACTED: Final = "event.retracted"
EVENTS_CORRECTED: Final = "events.corrected"
EVENTS_IMPORTED: Final = "events.imported"
EVENTS_UNSEALED: Final = "events.unsealed"
LEGAL_HOLD_PLACED: Final = "legal_hold.placed"
LEGAL_HOLD_RELEASED: Final = "legal_hold.released"


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """Who requests a change, and why. Raises InvalidArgumentError when either is missing."""

    requested_by: str
    reason: str

    def __post_init__(self) -> None:
        _check("requested_by", self.requested_by, MAX_PRINCIPAL)
        _check("reason", self.reason, MAX_REASON)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """`details` is JSON, with numbers that must be exact as decimal strings."""

    audit_id: uuid.UUID
    at: datetime
    principal: str
    action: str
    subject: str
    reason: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Empty and None match everything. Times are half-open, [start, end).

    Raises InvalidArgumentError for texts that no entry can have.
    """

    action: str = ""
    principal: str = ""
    subject: str = ""
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        for field in ("action", "principal", "subject"):
            if "\0" in getattr(self, field):
                raise InvalidArgumentError(field, "no NUL")


def _check(field: str, text: str, longest: int) -> None:
    if not text.strip() or len(text) > longest or "\0" in text:
        raise InvalidArgumentError(field, f"1 to {longest} characters, not only blanks, no NUL")
