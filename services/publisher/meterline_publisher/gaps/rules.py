"""Billing gaps: usage that no invoice line bills, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from meterline.errors import FailedPreconditionError


class GapReason(StrEnum):
    """Why usage is not billed. The names are those of the API; docs/services/publisher-runbook.md describes
    the remedy for each."""

    # These concern the whole period.
    NO_PLAN = "no_plan"
    PLAN_UNKNOWN = "plan_unknown"
    NO_CUSTOMER = "no_customer"
    CUSTOMER_UNKNOWN = "customer_unknown"
    CUSTOMER_CHANGED = "customer_changed"
    FAULT = "fault"
    # These concern the whole period or one meter.
    NO_BILLING_PROVIDER = "no_billing_provider"
    PRICE_NOT_IN_FORCE = "price_not_in_force"
    # These concern one meter.
    CURRENCY_DIFFERS = "currency_differs"
    METER_UNKNOWN = "meter_unknown"
    METER_NOT_PRICED = "meter_not_priced"
    QUANTITY_NOT_DELIVERABLE = "quantity_not_deliverable"
    LATE_USAGE = "late_usage"


# These are gaps only for periods with usage.
NEED_USAGE = frozenset(
    {
        GapReason.NO_BILLING_PROVIDER,
        GapReason.NO_PLAN,
        GapReason.PLAN_UNKNOWN,
        GapReason.PRICE_NOT_IN_FORCE,
        GapReason.NO_CUSTOMER,
    }
)

# Not faults: a meter without a price may be for information only, and an installation without a provider
# bills nobody.
NOTES = frozenset({GapReason.METER_NOT_PRICED, GapReason.NO_BILLING_PROVIDER})

# Found by rating. Late usage is found when usage arrives, or when an invoice becomes final.
OF_RATING = frozenset(GapReason) - {GapReason.LATE_USAGE}


@dataclass(frozen=True, slots=True)
class Gap:
    """One reason why the usage of a period, or of one meter in it, is not billed.

    meter: empty for the whole period
    quantity: usage that is not billed, in the meter's unit; None where the reason concerns no quantity
    """

    meter: str
    reason: GapReason
    detail: str
    quantity: Decimal | None = None


class NotBillableError(FailedPreconditionError):
    """A period cannot be rated until somebody changes something; `gaps` list the reasons."""

    def __init__(self, reason: GapReason, subject: str, rule: str, gaps: Sequence[Gap] = ()) -> None:
        super().__init__(subject, rule, reason.name)
        self.gaps = gaps or (Gap("", reason, str(self)),)


def none_billable(gaps: Sequence[Gap]) -> NotBillableError:
    """The error when no meter of the plan can be billed; `gaps` must not be empty."""
    first = gaps[0]
    return NotBillableError(first.reason, f"meter {first.meter}", first.detail, gaps)


def undeliverable(meter: str, value: Decimal, code: str) -> Gap:
    """The gap for a value that the provider does not accept; `value` is scaled, as it would be sent."""
    return Gap(meter, GapReason.QUANTITY_NOT_DELIVERABLE, f"{value} was rejected: {code}")


Place = tuple[int, datetime, str]
"""The position of a gap in a list: tenant, period start, and "reason/meter"."""


@dataclass(frozen=True, slots=True)
class StoredGap:
    """A stored billing gap. `since`: when it was first found."""

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
