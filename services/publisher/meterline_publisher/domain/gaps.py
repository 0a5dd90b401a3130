"""Billing gaps: usage that no invoice line bills, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from meterline.errors import FailedPreconditionError

from meterline_publisher.domain.assessment import MeterUsage
from meterline_publisher.domain.rule_sets import Rule, RuleSet


class GapReason(StrEnum):
    """Why something is not billed. Names are those of the API; docs/services/publisher-runbook.md has what
    to do about each."""

    # The whole period is not billed.
    NO_PLAN = "no_plan"
    PLAN_UNKNOWN = "plan_unknown"
    CURRENCY_DIFFERS = "currency_differs"
    METER_UNKNOWN = "meter_unknown"
    NO_CUSTOMER = "no_customer"
    CUSTOMER_UNKNOWN = "customer_unknown"
    CUSTOMER_CHANGED = "customer_changed"
    FAULT = "fault"
    # The whole period, or one meter of it.
    PRICE_NOT_IN_FORCE = "price_not_in_force"
    # One meter.
    METER_NOT_PRICED = "meter_not_priced"
    QUANTITY_NOT_DELIVERABLE = "quantity_not_deliverable"
    LATE_USAGE = "late_usage"


# Of a period that nobody used there is nothing to miss for these.
NEED_USAGE = frozenset(
    {
        GapReason.NO_PLAN,
        GapReason.PLAN_UNKNOWN,
        GapReason.PRICE_NOT_IN_FORCE,
        GapReason.NO_CUSTOMER,
    }
)

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
    """A period cannot be rated until somebody changes something; `gap` says what."""

    def __init__(self, reason: GapReason, subject: str, rule: str) -> None:
        super().__init__(subject, rule, reason.name)
        self.gap = Gap("", reason, str(self))


def unpriced(rule_set: RuleSet, catalogue: Iterable[Rule], usage: Mapping[str, MeterUsage]) -> list[Gap]:
    """The meters that were used and have no line, in their order. `catalogue`: all versions of the plan."""
    priced = {rule.meter for rule in rule_set.rules}
    first: dict[str, Rule] = {}
    for rule in catalogue:
        known = first.get(rule.meter)
        if known is None or rule.version.effective_from < known.version.effective_from:
            first[rule.meter] = rule
    found = []
    for meter, used in sorted(usage.items()):
        if meter in priced or not used.value:
            continue
        later = first.get(meter)
        if later is None:
            gap = Gap(meter, GapReason.METER_NOT_PRICED, "the plan has no price for it", used.value)
        else:
            start = later.version.effective_from.isoformat()
            detail = f"the first price takes effect at {start}, after the period has begun"
            gap = Gap(meter, GapReason.PRICE_NOT_IN_FORCE, detail, used.value)
        found.append(gap)
    return found


def undeliverable(meter: str, value: Decimal, code: str) -> Gap:
    """What the provider does not take; `value` is scaled, as it would have been sent."""
    return Gap(meter, GapReason.QUANTITY_NOT_DELIVERABLE, f"{value} was rejected: {code}")
