"""Which rules price a period, and the assessment of its usage."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.calendar import Period
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.prices.rules.rule_sets import Rule, RuleSet, choose, of_final_invoice
from meterline_publisher.prices.rules.versions import PriceVersion, VersionError
from meterline_publisher.rating.rules.assessment import Assessment, assess
from meterline_publisher.usage.rules import MeterUsage

pytestmark = pytest.mark.req("C1", "C2")

ZONE = ZoneInfo("UTC")
JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
MARCH = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))


def rule(meter: str = "calls", version: int = 1, unit: str = "1", **more: Any) -> Rule:
    """A per-unit price whose version n takes effect n - 1 months after January."""
    start = JANUARY.replace(month=version)
    price = parse_price({"model": "per_unit", "currency": "USD", "unit": unit})
    return replace(Rule("basic", meter, PriceVersion(version, start, price), meter, meter, 0), **more)


def usage(value: str, revision: int = 1) -> MeterUsage:
    return MeterUsage("calls", Decimal(value), 3, revision, "sum")


CATALOGUE = [rule(version=version, unit=str(version)) for version in (1, 2, 3, 4)] + [rule("new", 4)]


@pytest.mark.parametrize(
    ("at", "version"),
    [
        (MARCH.start - timedelta(microseconds=1), 2),
        (MARCH.start, 3),
        (MARCH.end - timedelta(microseconds=1), 3),
        (MARCH.end, 4),
    ],
)
def test_version_in_force_at_the_period_start_is_chosen(at: datetime, version: int) -> None:
    assert choose(CATALOGUE[:4], at, ZONE).versions() == [["basic/calls", version]]


def test_meters_without_a_version_in_force_are_not_priced() -> None:
    assert [found.meter for found in choose(CATALOGUE, MARCH.start, ZONE).rules] == ["calls"]
    assert [found.meter for found in choose(CATALOGUE, MARCH.end, ZONE).rules] == ["calls", "new"]
    assert choose(CATALOGUE, JANUARY - timedelta(days=1), ZONE).rules == ()


def test_contradicting_versions_price_nothing() -> None:
    backwards = replace(rule(version=2), version=replace(rule().version, version=2))
    with pytest.raises(VersionError):
        choose([rule(), backwards], MARCH.start, ZONE)


def test_a_final_invoice_keeps_its_versions() -> None:
    assert of_final_invoice(CATALOGUE, {"calls": 1}).versions() == [["basic/calls", 1]]
    assert of_final_invoice(CATALOGUE, {"new": 4, "calls": 3}).versions() == [
        ["basic/calls", 3],
        ["basic/new", 4],
    ]
    with pytest.raises(VersionError):
        of_final_invoice(CATALOGUE, {"calls": 9})
    with pytest.raises(VersionError):
        of_final_invoice(CATALOGUE, {"gone": 1})


@given(st.integers())
def test_rule_set_id_depends_on_content_not_order(seed: int) -> None:
    rules = choose(CATALOGUE, MARCH.end, ZONE).rules
    shuffled = list(rules)
    Random(seed).shuffle(shuffled)
    assert RuleSet(tuple(shuffled)).rule_set_id == RuleSet(rules).rule_set_id
    assert choose(reversed(CATALOGUE), MARCH.end, ZONE).digest == RuleSet(rules).digest


@pytest.mark.parametrize(
    "other",
    [
        rule(unit="2"),
        rule(version=2),
        rule("calls2"),
        replace(rule(), plan="other"),
    ],
)
def test_different_rules_have_different_ids(other: Rule) -> None:
    assert RuleSet((other,)).digest != RuleSet((rule(),)).digest


def test_a_flat_fee_that_is_not_sent_needs_no_usage() -> None:
    flat = PriceVersion(1, JANUARY, parse_price({"model": "flat", "currency": "USD", "amount": "5"}))
    assert rule(event_name="").needs_usage
    assert not replace(rule(), version=flat, event_name="").needs_usage
    assert replace(rule(), version=flat).needs_usage


def test_assessment_lists_billed_and_sent_amounts() -> None:
    rules = RuleSet((rule(unit="0.5", scale=2),))
    (found,) = assess(rules, "acme", MARCH, {"calls": usage("2.5")})
    assert (found.line.amount, found.target) == (Decimal("1.25"), Decimal(250))
    assert found.output()["amount"] == "1.25"
    assert found.inputs["rule"] == rules.rules[0].line()
    (silent,) = assess(RuleSet((rule(event_name=""),)), "acme", MARCH, {"calls": usage("1")})
    assert silent.target is None


def test_missing_usage_is_zero_and_negative_total_bills_nothing() -> None:
    rules = RuleSet((rule(),))
    (nothing,) = assess(rules, "acme", MARCH, {})
    assert nothing.line.amount == nothing.target == 0
    (negative,) = assess(rules, "acme", MARCH, {"calls": usage("-4")})
    assert negative.line.amount == negative.line.quantity == 0
    assert negative.target == -4
    assert negative.inputs["value"] == "-4"


@pytest.mark.parametrize(
    "change",
    [
        {"usage": usage("1", revision=2)},
        {"usage": usage("2")},
        {"rules": RuleSet((rule(unit="2"),))},
        {"tenant": "other"},
        {"period": Period(MARCH.start, MARCH.end + timedelta(hours=1))},
    ],
)
def test_input_digest_covers_all_inputs(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "rules": RuleSet((rule(),)),
        "tenant": "acme",
        "period": MARCH,
        "usage": usage("1"),
    }
    (before,) = _assessed(**given)
    (again,) = _assessed(**given)
    (after,) = _assessed(**(given | change))
    assert before.inputs_digest == again.inputs_digest != after.inputs_digest


def _assessed(rules: RuleSet, tenant: str, period: Period, usage: MeterUsage) -> list[Assessment]:
    return assess(rules, tenant, period, {"calls": usage})
