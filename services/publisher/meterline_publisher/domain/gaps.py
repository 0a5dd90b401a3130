"""Billing gaps: usage that no invoice line bills, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from zoneinfo import ZoneInfo

from meterline.errors import FailedPreconditionError

from meterline_publisher.domain.assessment import MeterUsage
from meterline_publisher.domain.rule_sets import Rule, RuleSet


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


def billable(rule_set: RuleSet, currency: str, unknown: Collection[str] = ()) -> tuple[RuleSet, list[Gap]]:
    """The rules that can be billed in `currency`, and the meters of the others with what is wrong: they keep
    only themselves from being billed.

    unknown: meters that were found not to exist; a misspelt one would be billed at 0
    """
    gaps = []
    for rule in rule_set.rules:
        code = rule.version.price.currency.code
        if rule.meter in unknown:
            detail = f"plan {rule.plan} prices it, and it does not exist"
            gaps.append(Gap(rule.meter, GapReason.METER_UNKNOWN, detail))
        elif code != currency:
            detail = (
                f"version {rule.version.version} of its price is in {code}, and the tenant pays in {currency}"
            )
            gaps.append(Gap(rule.meter, GapReason.CURRENCY_DIFFERS, detail))
    left_out = {gap.meter for gap in gaps}
    return RuleSet(tuple(rule for rule in rule_set.rules if rule.meter not in left_out)), gaps


def with_quantities(gaps: Iterable[Gap], usage: Mapping[str, MeterUsage]) -> list[Gap]:
    """The gaps with what was used of their meters, where something was."""
    return [replace(gap, quantity=usage[gap.meter].value) if gap.meter in usage else gap for gap in gaps]


def unpriced(
    known: Collection[str], catalogue: Iterable[Rule], usage: Mapping[str, MeterUsage], zone: ZoneInfo
) -> list[Gap]:
    """The meters that were used and have no price for the period, in their order.

    known: meters that have a line, or another gap
    catalogue: all versions of the plan, which take effect as clocks go in `zone`
    """
    first: dict[str, Rule] = {}
    for rule in catalogue:
        earlier = first.get(rule.meter)
        if earlier is None or rule.version.start_in(zone) < earlier.version.start_in(zone):
            first[rule.meter] = rule
    found = []
    for meter, used in sorted(usage.items()):
        if meter in known or not used.value:
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
