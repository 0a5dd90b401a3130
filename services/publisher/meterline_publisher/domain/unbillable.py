"""Meters of a plan that cannot be billed. They never keep the plan's other meters from being billed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from meterline.errors import FailedPreconditionError

from meterline_publisher.domain.rule_sets import Rule, RuleSet


class Cause(StrEnum):
    """Why a meter cannot be billed; clients may depend on these values."""

    METER_UNKNOWN = "METER_UNKNOWN"
    CURRENCY_DIFFERS = "CURRENCY_DIFFERS"


class UnbillableMeterError(FailedPreconditionError):
    """One meter of a plan cannot be billed; raised only when none of them can."""

    def __init__(self, rule: Rule, cause: Cause, why: str) -> None:
        super().__init__(f"price {rule.rule_id}/{rule.version.version}", why, cause.value)
        self.meter = rule.meter
        self.cause = cause


def unknown_meter(rule: Rule) -> UnbillableMeterError:
    """The plan prices what nobody counts: a misspelt name would be billed at 0."""
    return UnbillableMeterError(rule, Cause.METER_UNKNOWN, f"meter {rule.meter} does not exist")


def without_unbillable(
    rule_set: RuleSet, currency: str, unknown: Mapping[str, UnbillableMeterError]
) -> tuple[RuleSet, dict[str, UnbillableMeterError]]:
    """The rules that can be billed in `currency`, and by meter why the others cannot.

    unknown: meters that were found not to exist
    """
    found = {rule.meter: unknown[rule.meter] for rule in rule_set.rules if rule.meter in unknown}
    for rule in rule_set.rules:
        code = rule.version.price.currency.code
        if code != currency:
            found[rule.meter] = UnbillableMeterError(
                rule, Cause.CURRENCY_DIFFERS, f"is in {code}, and the tenant is billed in {currency}"
            )
    return RuleSet(tuple(rule for rule in rule_set.rules if rule.meter not in found)), found
