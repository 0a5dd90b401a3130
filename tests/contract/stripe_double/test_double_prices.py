"""Invoiced amounts of prices, against our own calculation in exact fractions."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import stripe
from hypothesis import HealthCheck, given, settings

from tests.contract.stripe_double.lab import Lab, instant, period
from tests.contract.stripe_double.price_oracle import Terms, cases, plain

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "prices.json").read_text())
NOW = instant("2026-03-01T00:00:00")


def _invoiced(lab: Lab, terms: list[dict[str, Any]], quantity: int, **more: Any) -> stripe.Invoice:
    """The draft invoice of a period with this usage, with a line for each of the terms."""
    clock, meter = lab.clock(NOW), lab.meter()
    customer = lab.customer(clock)
    prices = [lab.price(meter, **{**one, **more}) for one in terms]
    subscription = lab.subscribe(customer, *prices)
    if quantity:
        lab.send(meter, customer, quantity, at=NOW)
    lab.advance(clock, period(subscription)[1])
    return lab.invoice(subscription.id)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
@pytest.mark.req("T3.5", "S9")
def test_invoice_is_the_sum_of_its_lines_each_rounded_once(lab: Lab, case: tuple[list[Terms], int]) -> None:
    terms, quantity = case
    invoice = _invoiced(lab, [one.params() for one in terms], quantity)
    expected = [one.owed(quantity) for one in terms]
    assert [line.amount for line in invoice.lines.data] == expected
    assert invoice.total == invoice.subtotal == invoice.amount_due == sum(expected)


@pytest.mark.req("T3.5")
@pytest.mark.parametrize(
    ("quantity", "graduated", "volume"),
    [(0, 100, 100), (1, 105, 105), (10, 150, 150), (11, 193, 73), (20, 220, 100), (21, 228, 28)],
)
def test_tier_begins_with_the_first_unit_beyond_the_previous_one(
    lab: Lab, quantity: int, graduated: int, volume: int
) -> None:
    """100 + 5 a unit up to 10, 40 + 3 a unit up to 20, 7 + 1 a unit beyond; calculated by hand."""
    steps = [(10, 5, 100), (20, 3, 40), ("inf", 1, 7)]
    tiers = [{"up_to": up_to, "unit_amount": unit, "flat_amount": flat} for up_to, unit, flat in steps]
    terms = [
        {"billing_scheme": "tiered", "tiers_mode": mode, "tiers": tiers} for mode in ("graduated", "volume")
    ]
    lines = _invoiced(lab, terms, quantity).lines.data
    assert [line.amount for line in lines] == [graduated, volume]


def _stripe_terms(price: dict[str, Any]) -> dict[str, Any] | None:
    """The price of a worked case in Stripe's notation; None if Stripe has no such price."""
    exponent = {"KWD": 3}.get(price["currency"], 2)

    def minor(amount: str) -> str:
        return plain(Decimal(amount).scaleb(exponent))

    currency = {"currency": price["currency"].lower()}
    match price["model"]:
        case "per_unit":
            return {"unit_amount_decimal": minor(price["unit"]), **currency}
        case "package" if price["size"].isdecimal():
            packages = {"divide_by": int(price["size"]), "round": price.get("round", "up")}
            return {"unit_amount_decimal": minor(price["amount"]), "transform_quantity": packages, **currency}
        case "graduated" | "volume":
            steps = [
                {
                    "up_to": tier["up_to"] or "inf",
                    "unit_amount_decimal": minor(tier["unit"]),
                    "flat_amount_decimal": minor(tier["flat"]),
                }
                for tier in price["tiers"]
            ]
            return {"billing_scheme": "tiered", "tiers_mode": price["model"], "tiers": steps, **currency}
        case _:
            return None


CASES = [
    pytest.param(terms, int(case["quantity"]), case["minor"], id=f"{group['id']}-{index}")
    for group in VECTORS["rating"]
    for index, case in enumerate(group["cases"])
    if (terms := _stripe_terms(group["price"] | case.get("price", {}))) is not None
    # Stripe counts whole units; the last digit of dinars has its own test.
    and case["quantity"].isdecimal()
    and group["price"]["currency"] != "KWD"
]


@pytest.mark.req("T3.5", "S9")
@pytest.mark.parametrize(("terms", "quantity", "minor"), CASES)
def test_worked_cases_are_billed_as_calculated(
    lab: Lab, terms: dict[str, Any], quantity: int, minor: int
) -> None:
    assert _invoiced(lab, [terms], quantity).total == minor


@pytest.mark.req("T3.5")
@pytest.mark.parametrize(
    ("currency", "unit", "quantity", "expected"),
    [
        ("usd", "0.5", 1, 1),
        ("jpy", "0.5", 1, 1),
        ("jpy", "0.499999999999", 1, 0),
        ("kwd", "411.5", 3, 1230),
        ("kwd", "412", 3, 1240),
        ("kwd", "5", 1, 10),
        ("isk", "49.999999999999", 1, 0),
        ("isk", "50", 1, 100),
    ],
)
def test_amounts_are_rounded_half_up_to_the_billing_unit(
    lab: Lab, currency: str, unit: str, quantity: int, expected: int
) -> None:
    terms = {"unit_amount_decimal": unit, "currency": currency}
    assert _invoiced(lab, [terms], quantity).total == expected


@pytest.mark.req("T3.5")
def test_amounts_are_returned_as_integer_and_decimal(lab: Lab) -> None:
    meter = lab.meter()
    whole = lab.price(meter, unit_amount_decimal=Decimal("250.00"))
    assert (whole.unit_amount, whole.unit_amount_decimal) == (250, Decimal(250))
    fraction = lab.price(meter, unit_amount_decimal="0.000000000001")
    assert (fraction.unit_amount, fraction.unit_amount_decimal) == (None, Decimal("0.000000000001"))
    assert fraction.recurring is not None
    assert (fraction.recurring.meter, fraction.recurring.usage_type) == (meter.id, "metered")


UP = {"up_to": "inf", "unit_amount": 1}
TIERED = {"billing_scheme": "tiered", "tiers_mode": "graduated"}


@pytest.mark.req("T3.5")
@pytest.mark.parametrize(
    ("terms", "param"),
    [
        ({"nickname": "no amount"}, "unit_amount"),
        ({"unit_amount": 1, "unit_amount_decimal": "1"}, "unit_amount"),
        ({"unit_amount": -1}, "unit_amount"),
        ({"unit_amount_decimal": "0.0000000000001"}, "unit_amount_decimal"),
        # The library's own formatting of a small Decimal.
        ({"unit_amount_decimal": Decimal("0.0000001")}, "unit_amount_decimal"),
        ({"unit_amount": 1, "currency": "dollars"}, "currency"),
        (
            {"unit_amount": 1, "transform_quantity": {"divide_by": 0, "round": "up"}},
            "transform_quantity[divide_by]",
        ),
        ({"unit_amount": 1, "transform_quantity": {"divide_by": 5}}, "transform_quantity[round]"),
        ({"unit_amount": 1, "recurring": {"interval": "month"}}, "recurring[usage_type]"),
        ({"unit_amount": 1, "recurring": {"interval": "year"}}, "recurring[interval]"),
        (TIERED, "tiers"),
        ({"billing_scheme": "tiered", "tiers": [UP]}, "tiers_mode"),
        (TIERED | {"tiers": [{"up_to": 5, "unit_amount": 1}]}, "tiers"),
        (TIERED | {"tiers": [UP, UP]}, "tiers"),
        (TIERED | {"tiers": [{"up_to": 5, "unit_amount": 1}, {"up_to": 5, "unit_amount": 1}, UP]}, "tiers"),
        (TIERED | {"tiers": [{"up_to": "inf"}]}, "tiers[0][unit_amount]"),
        (TIERED | {"tiers": [UP], "unit_amount": 1}, "unit_amount"),
        (
            TIERED | {"tiers": [UP], "transform_quantity": {"divide_by": 5, "round": "up"}},
            "transform_quantity",
        ),
    ],
)
def test_invalid_prices_are_refused(lab: Lab, terms: dict[str, Any], param: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.price(lab.meter(), **terms)
    assert (error.value.http_status, error.value.param) == (400, param)
