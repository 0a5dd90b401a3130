"""Finds usage that is not billed: meters of the plan that cannot be, and meters without a price."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from zoneinfo import ZoneInfo

from meterline_publisher.gaps.rules import Gap, GapReason
from meterline_publisher.prices.rules.rule_sets import Rule, RuleSet
from meterline_publisher.usage.rules import MeterUsage


def billable(rule_set: RuleSet, currency: str, unknown: Collection[str] = ()) -> tuple[RuleSet, list[Gap]]:
    """The rules that can be billed in `currency`, and a gap for each of the others, which do not keep the
    rest from being billed.

    unknown: meters that do not exist; a misspelt one would otherwise be billed at 0
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
    """The gaps with the usage of their meters, where there is any."""
    return [replace(gap, quantity=usage[gap.meter].value) if gap.meter in usage else gap for gap in gaps]


def unpriced(
    known: Collection[str], catalogue: Iterable[Rule], usage: Mapping[str, MeterUsage], zone: ZoneInfo
) -> list[Gap]:
    """The gaps of meters that have usage and no price for the period, ordered by meter.

    known: meters that have a line, or another gap
    catalogue: all versions of the plan
    zone: the tenant's time zone, which decides when versions take effect
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
