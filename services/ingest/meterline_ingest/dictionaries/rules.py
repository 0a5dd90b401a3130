"""Quotas of permanent data per tenant: series and subjects, each a row here and more in other services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_QUOTA: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Quotas:
    """The most series (combinations of type and dimensions) and subjects of a tenant. 0: not set."""

    series: int = 0
    subjects: int = 0

    def or_else(self, default: Quotas) -> Quotas:
        """With the default's values for those that are not set."""
        return Quotas(self.series or default.series, self.subjects or default.subjects)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The problem of an event that would need a new entry beyond the quota."""

    reason: str
    field: str
    rule: str


NO_SERIES: Final = Refusal(
    "SERIES_QUOTA",
    "dimensions",
    "a combination of type and dimensions that was seen before: the tenant's quota of new ones is used up,"
    " and an operator raises it by max_series of its limits",
)
NO_SUBJECT: Final = Refusal(
    "SUBJECT_QUOTA",
    "subject",
    "one that was seen before: the tenant's quota of new ones is used up, and an operator raises it by"
    " max_subjects of its limits",
)
