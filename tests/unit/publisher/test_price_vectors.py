"""The rules of prices and rating reproduce the worked cases of `tests/vectors/prices.json`."""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from meterline.calendar import Period
from meterline.decimals import exact_sum
from meterline_publisher.billing.allocation import allocate
from meterline_publisher.billing.canonical import canonical_json
from meterline_publisher.billing.money import Money, Rounding, currency
from meterline_publisher.billing.proration import change
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.prices.rules.versions import PriceVersion, pinned, split
from meterline_publisher.rating.rules.rating import rate
from meterline_publisher.rating.rules.totals import totals

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "prices.json").read_text())

RATING = [
    pytest.param(group["price"] | case.get("price", {}), case, id=f"{group['id']}-{index}")
    for group in VECTORS["rating"]
    for index, case in enumerate(group["cases"])
]


def section(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in VECTORS[name]])


@pytest.mark.req("C5", "X5")
@pytest.mark.parametrize(("body", "case"), RATING)
def test_rating(body: dict[str, Any], case: dict[str, Any]) -> None:
    line = rate(parse_price(body), Decimal(case["quantity"]))

    assert str(line.amount) == case["amount"]
    assert line.minor == case["minor"]
    assert sum(step.amount for step in line.steps) == line.exact


@pytest.mark.req("C1")
@pytest.mark.parametrize("group", [pytest.param(group, id=group["id"]) for group in VECTORS["rating"]])
def test_vector_bodies_are_canonical(group: dict[str, Any]) -> None:
    assert parse_price(group["price"]).body() == group["price"]
    assert canonical_json(parse_price(group["price"]).body()) == canonical_json(group["price"])


@pytest.mark.req("C5", "X5")
@section("invoices")
def test_invoices(case: dict[str, Any]) -> None:
    lines = [rate(parse_price(line["price"]), Decimal(line["quantity"])) for line in case["lines"]]

    assert [str(line.amount) for line in lines] == case["line_amounts"]
    assert [str(total.amount) for total in totals(lines).values()] == [case["total"]]


@pytest.mark.req("C5", "X5")
@section("rounding")
def test_rounding(case: dict[str, Any]) -> None:
    unit = currency(case["currency"])
    for rounding, expected in case["expect"].items():
        money = Money.rounded(Fraction(case["exact"]), unit, Rounding(rounding), case.get("exponent"))

        assert money.amount == Decimal(expected)
        assert money.minor == Decimal(expected) * 10**unit.exponent


@pytest.mark.req("C5", "X5")
@section("proration")
def test_proration(case: dict[str, Any]) -> None:
    period = Period(_instant(case["period_start"]), _instant(case["period_end"]))
    outcome = change(
        period,
        _instant(case["change_at"]),
        Decimal(case["old"]),
        Decimal(case["new"]),
        currency(case["currency"]),
    )

    lines = {"credit": outcome.credit.money, "charge": outcome.charge.money, "net": outcome.net}
    assert {name: str(money.amount) for name, money in lines.items()} == case["expect"]


@pytest.mark.req("C5", "X5")
@section("allocation")
def test_allocation(case: dict[str, Any]) -> None:
    total = Money.exactly(Decimal(case["total"]), currency(case["currency"]))
    parts = allocate(total, [Decimal(weight) for weight in case["weights"]])

    assert [str(part.amount) for part in parts] == case["expect"]


@pytest.mark.req("C2", "X5")
@section("versions")
def test_versions(case: dict[str, Any]) -> None:
    versions = [
        PriceVersion(row["version"], _instant(row["effective_from"]), parse_price(row["price"]))
        for row in case["versions"]
    ]
    usage = [(_instant(at), Decimal(quantity)) for at, quantity in case["usage"]]
    start = _instant(case["period_start"])

    zone = ZoneInfo("UTC")
    version, whole = pinned(versions, start, zone), exact_sum(quantity for _, quantity in usage)
    parts = split(versions, Period(start, start + timedelta(days=31)), usage, zone)

    outcome = {
        "pinned": [_line(version, whole)],
        "split": [_line(part.version, part.quantity) for part in parts],
    }
    assert {name: outcome[name] for name in case["expect"]} == case["expect"]


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _line(version: PriceVersion, quantity: Decimal) -> list[object]:
    return [version.version, str(quantity), str(rate(version.price, quantity).amount)]
