"""A legal hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class LegalHold:
    """`released_at` is None while it is in force."""

    name: str
    reason: str
    requested_by: str
    placed_at: datetime
    released_at: datetime | None
