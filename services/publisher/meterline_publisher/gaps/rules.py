"""Billing gaps: usage that no invoice line bills, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from meterline.errors import FailedPreconditionError


class GapReason(StrEnum):
    """Why something is not billed. Names are those of the API; docs/services/publisher-runbook.md has what
    to do about each."""

    # The whole period is not billed.
    NO_PLAN = "no_plan"
    PLAN_UNKNOWN = "plan_unknown"
    NO_CUSTOMER = "no_customer"
    CUSTOMER_UNKNOWN = "customer_unknown"
    CUSTOMER_CHANGED = "customer_changed"
    FAULT = "fault"
    # The whole period, or one meter of it.
    NO_BILLING_PROVIDER = "no_billing_provider"
    PRICE_NOT_IN_FORCE = "price_not_in_force"
    # One meter.
    CURRENCY_DIFFERS = "currency_differs"
    METER_UNKNOWN = "meter_unknown"
    METER_NOT_PRICED = "meter_not_priced"
    QUANTITY_NOT_DELIVERABLE = "quantity_not_deliverable"
    LATE_USAGE = "late_usage"


# Of a period that nobody used there is nothing to miss for these.
NEED_USAGE = frozenset(
    {
        GapReason.NO_BILLING_PROVIDER,
        GapReason.NO_PLAN,
        GapReason.PLAN_UNKNOWN,
        GapReason.PRICE_NOT_IN_FORCE,
        GapReason.NO_CUSTOMER,
    }
)

# Notes and no faults: a meter without a price may be meant for information, and an installation without a
# provider bills nobody.
NOTES = frozenset({GapReason.METER_NOT_PRICED, GapReason.NO_BILLING_PROVIDER})

# Found when a period is rated. Late usage is found when usage comes, or an invoice becomes final.
OF_RATING = frozenset(GapReason) - {GapReason.LATE_USAGE}


@dataclass(frozen=True, slots=True)
class Gap:
    """One reason why a period of a tenant, or one meter of it, is not billed as it is used.

    meter: empty for the whole period
    quantity: usage that is not billed, in the meter's unit; None where the reason is of no quantity
    """

    meter: str
    reason: GapReason
    detail: str
    quantity: Decimal | None = None


class NotBillableError(FailedPreconditionError):
    """A period cannot be rated until somebody changes something; `gaps` say what."""

    def __init__(self, reason: GapReason, subject: str, rule: str, gaps: Sequence[Gap] = ()) -> None:
        super().__init__(subject, rule, reason.name)
        self.gaps = gaps or (Gap("", reason, str(self)),)


def none_billable(gaps: Sequence[Gap]) -> NotBillableError:
    """None of the meters that a plan prices can be billed; `gaps` has one for each of them first."""
    first = gaps[0]
    return NotBillableError(first.reason, f"meter {first.meter}", first.detail, gaps)


def undeliverable(meter: str, value: Decimal, code: str) -> Gap:
    """What the provider does not take; `value` is scaled, as it would have been sent."""
    return Gap(meter, GapReason.QUANTITY_NOT_DELIVERABLE, f"{value} was rejected: {code}")


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
