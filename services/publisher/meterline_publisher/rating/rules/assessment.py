"""Applies a rule to its meter's usage: what is recorded, billed and sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from meterline.calendar import Period
from meterline.decimals import to_text

from meterline_publisher.billing import canonical
from meterline_publisher.billing.canonical import Json
from meterline_publisher.billing.money import exact_text
from meterline_publisher.ledger.rules.ledger import scaled
from meterline_publisher.prices.rules.rule_sets import Rule, RuleSet
from meterline_publisher.rating.rules.rating import RatedLine, rate
from meterline_publisher.usage.rules import MeterUsage, no_usage

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Assessment:
    """One line: its rule, its usage, and the result.

    `target` is the sum that the billing provider must have for it, scaled; None when nothing is sent.
    """

    rule: Rule
    usage: MeterUsage
    line: RatedLine
    inputs: Mapping[str, Json]
    target: Decimal | None

    @property
    def inputs_digest(self) -> str:
        return canonical.digest(dict(self.inputs))

    def output(self) -> dict[str, Json]:
        """The result as calculations store it."""
        return {
            "amount": str(self.line.amount),
            "currency": self.line.currency.code,
            "exact": exact_text(self.line.exact),
            "quantity": to_text(self.line.quantity),
            "steps": steps_of(self.line),
        }


def steps_of(line: RatedLine) -> list[dict[str, str]]:
    """The steps that add up to the amount, as the API shows them: decimals in major units, as strings."""
    return [
        {
            "description": step.description,
            "quantity": to_text(step.quantity),
            "unit_amount": to_text(step.unit_amount),
            "amount": exact_text(step.amount),
        }
        for step in line.steps
    ]


def assess(
    rule_set: RuleSet, tenant: str, period: Period, usage: Mapping[str, MeterUsage]
) -> list[Assessment]:
    """Rate every rule of the set. A meter without usage is rated at 0, since a flat may be due.

    A total below 0, which corrections can cause, is billed as 0; the provider gets the true value and also
    bills 0.
    """
    return [
        _assess(rule, tenant, period, usage.get(rule.meter) or no_usage(rule.meter))
        for rule in rule_set.rules
    ]


def _assess(rule: Rule, tenant: str, period: Period, usage: MeterUsage) -> Assessment:
    inputs: dict[str, Json] = {
        "tenant": tenant,
        "meter": rule.meter,
        "period_start": period.start.isoformat(),
        "period_end": period.end.isoformat(),
        "aggregation": usage.aggregation,
        "value": to_text(usage.value),
        "event_count": usage.event_count,
        "revision": usage.revision,
        "rule": rule.line(),
    }
    line = rate(rule.version.price, max(usage.value, ZERO))
    target = scaled(usage.value, rule.scale) if rule.event_name else None
    return Assessment(rule, usage, line, inputs, target)
