"""Which meters of a plan are left out of a period, how the others are sent, and when closing re-rates."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_publisher.closing.job import is_due
from meterline_publisher.closing.store import Candidate
from meterline_publisher.gaps.rules import Gap, GapReason
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.prices.rules.rule_sets import Rule, RuleSet
from meterline_publisher.prices.rules.versions import PriceVersion
from meterline_publisher.rating.rules.unbilled import billable, unpriced, with_quantities
from meterline_publisher.usage.rules import MeterUsage

pytestmark = pytest.mark.req("S9", "S5")

START = datetime(2026, 3, 1, tzinfo=UTC)
METERS = ["a", "b", "c", "d"]


def rule(meter: str, currency: str = "USD", start: datetime | date = START, version: int = 1) -> Rule:
    price = parse_price({"model": "per_unit", "currency": currency, "unit": "1"})
    return Rule("basic", meter, PriceVersion(version, start, price), meter, meter, 0)


def used(meter: str, value: str) -> MeterUsage:
    return MeterUsage(meter, Decimal(value), 1, 1, "sum")


@given(foreign=st.sets(st.sampled_from(METERS)), unknown=st.sets(st.sampled_from(METERS)))
def test_every_meter_is_billed_or_has_one_reason(foreign: set[str], unknown: set[str]) -> None:
    rules = RuleSet(tuple(rule(meter, "EUR" if meter in foreign else "USD") for meter in METERS))
    kept, gaps = billable(rules, "USD", unknown)
    assert sorted([*(one.meter for one in kept.rules), *(gap.meter for gap in gaps)]) == METERS
    assert {gap.meter for gap in gaps} == foreign | unknown
    for gap in gaps:
        reason = GapReason.METER_UNKNOWN if gap.meter in unknown else GapReason.CURRENCY_DIFFERS
        assert gap.reason is reason
    # The order of discovery has no influence.
    first, some = billable(rules, "USD")
    second, more = billable(first, "USD", unknown)
    assert second == kept
    assert {gap.meter for gap in (*some, *more)} == {gap.meter for gap in gaps}


def test_gaps_include_the_usage_of_their_meter() -> None:
    gap = Gap("a", GapReason.CURRENCY_DIFFERS, "why")
    assert with_quantities([gap], {}) == [gap]
    assert with_quantities([gap], {"a": used("a", "7")}) == [replace(gap, quantity=Decimal(7))]


@pytest.mark.parametrize(
    ("zone", "since"),
    [("Asia/Tokyo", "at 2026-03-02, "), ("America/New_York", "at 2026-03-02T03:00:00+00:00, ")],
)
def test_first_price_takes_effect_at_local_midnight(zone: str, since: str) -> None:
    """The day begins at 15:00 UTC of the day before in Tokyo, and at 05:00 UTC in New York."""
    day, at = date(2026, 3, 2), datetime(2026, 3, 2, 3, tzinfo=UTC)
    catalogue = [rule("a", start=at), rule("a", start=day, version=2)]
    (gap,) = unpriced((), catalogue, {"a": used("a", "3")}, ZoneInfo(zone))
    assert since in gap.detail


def candidate(rules: RuleSet | None, **more: Any) -> Candidate:
    rated = rules.rule_set_id if rules else None
    known = Candidate(
        tenant_id=1,
        currency="USD",
        plan="basic",
        rated_plan="basic" if rules else None,
        rated_rules=rated,
        is_used=True,
        usage_differs=False,
        delivery_differs=False,
        unknown_meters=[],
    )
    return replace(known, **more)


WHOLE = RuleSet((rule("a"), rule("b"), rule("c", "EUR")))
RATED = RuleSet((rule("a"), rule("b")))
ONLY_A = RuleSet((rule("a"),))


@pytest.mark.parametrize(
    ("one", "rule_set", "made", "due"),
    [
        (candidate(RATED), WHOLE, (), False),
        (candidate(RATED, currency="EUR"), WHOLE, (), True),
        (candidate(ONLY_A), WHOLE, (), True),
        (candidate(ONLY_A, unknown_meters=["b"]), WHOLE, (), False),
        (candidate(ONLY_A, unknown_meters=["b"]), WHOLE, ("b",), True),
        (candidate(ONLY_A, unknown_meters=["b"]), WHOLE, ("a",), False),
        (candidate(RATED, delivery_differs=True), WHOLE, (), True),
        (candidate(RATED, usage_differs=True), WHOLE, (), True),
        (candidate(RATED, plan="other"), WHOLE, (), True),
        (candidate(RATED), None, (), True),
        (candidate(None), None, (), True),
        (candidate(None, is_used=False), None, (), False),
        (candidate(None, is_used=False), WHOLE, (), True),
    ],
)
def test_period_is_due_when_its_rating_would_change(
    one: Candidate, rule_set: RuleSet | None, made: tuple[str, ...], due: bool
) -> None:
    assert is_due(one, rule_set, frozenset(made)) is due
