"""Prices of Meterline and the Stripe prices made from them charge the same amount, to the cent."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_dev.demo.carriers import CARRIERS
from meterline_dev.demo.meters import METERS, definition, event_type
from meterline_dev.demo.plans import PLANS, stripe_price
from meterline_dev.stripe_double import rating as double
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.rating.rules.rating import rate

PRICES = [(plan, meter.name) for plan in PLANS for meter in METERS]


def as_stripe_keeps_it(terms: dict[str, Any]) -> dict[str, Any]:
    """The price object that Stripe makes from the parameters of the call."""
    tiers = [
        tier | {"up_to": None if tier["up_to"] == "inf" else tier["up_to"]} for tier in terms.get("tiers", [])
    ]
    defaults = {"billing_scheme": "per_unit", "tiers_mode": None, "transform_quantity": None}
    return {**defaults, **terms, "currency": "usd", "tiers": tiers}


@pytest.mark.req("S2", "T3.5", "X3")
@pytest.mark.parametrize(("plan", "meter"), PRICES)
@given(quantity=st.one_of(st.integers(0, 200), st.integers(0, 20_000_000)))
def test_meterline_and_stripe_charge_the_same(plan: str, meter: str, quantity: int) -> None:
    body = PLANS[plan][meter]
    ours = rate(parse_price(body), Decimal(quantity)).amount
    theirs = Decimal(double.amount(as_stripe_keeps_it(stripe_price(body)), quantity)) / 100
    assert ours == theirs


@pytest.mark.req("S2", "X3")
@pytest.mark.parametrize(("plan", "meter"), PRICES)
def test_meterline_and_stripe_charge_the_same_at_tier_and_package_edges(plan: str, meter: str) -> None:
    body = PLANS[plan][meter]
    edges = [Decimal(tier["up_to"]) for tier in body.get("tiers", []) if tier["up_to"]]
    edges += [Decimal(body["size"]) * count for count in (1, 2)] if "size" in body else [Decimal(1)]
    for edge in edges:
        for quantity in (edge - 1, edge, edge + 1):
            ours = rate(parse_price(body), quantity).amount
            theirs = double.amount(as_stripe_keeps_it(stripe_price(body)), int(quantity))
            assert ours == Decimal(theirs) / 100


@pytest.mark.req("S2")
def test_demo_uses_every_price_model() -> None:
    used = {carrier.plan for carrier in CARRIERS}
    assert used == set(PLANS)
    models = {PLANS[plan][meter]["model"] for plan, meter in PRICES}
    assert models == {"per_unit", "graduated", "volume", "package"}
    assert all(set(prices) == {meter.name for meter in METERS} for prices in PLANS.values())


@pytest.mark.req("S2")
def test_price_that_stripe_cannot_bill_is_refused() -> None:
    with pytest.raises(ValueError, match="percentage"):
        stripe_price({"model": "percentage", "currency": "USD", "percent": "2.9"})


@pytest.mark.req("T6.1")
def test_meters_refer_to_quantities_of_the_events() -> None:
    declared = event_type(air_minutes_required=True)
    quantities = {quantity.name for quantity in declared.quantities}
    dimensions = {dimension.name for dimension in declared.dimensions}
    for meter in METERS:
        made = definition(meter)
        assert made.event_type == declared.name
        assert not made.quantity or made.quantity in quantities
        assert set(made.group_by) <= dimensions


@pytest.mark.req("S1")
def test_tenants_have_distinct_names() -> None:
    assert len({carrier.tenant for carrier in CARRIERS}) == len({carrier.code for carrier in CARRIERS}) == 16
