"""Price models: examples beyond the worked cases, and properties of each model."""

import decimal
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.prices.rules.prices import Graduated, PerUnit, Price, Tier, Volume
from meterline_publisher.rating.rules.rating import QuantityError, rate

from_pico = st.builds(lambda n: Decimal(f"{n}E-12"), st.integers(0, 10**24))
quantities = st.one_of(st.integers(0, 60).map(Decimal), from_pico, st.integers(0, 10**24).map(Decimal))
signed = st.builds(lambda n: Decimal(f"{n}E-12"), st.integers(-(10**20), 10**20))


@st.composite
def tier_lists(draw: st.DrawFn, *, flats: bool = True) -> tuple[Tier, ...]:
    """One to five tiers with prices of 0 or more, small enough that small quantities reach their edges."""
    steps = draw(st.lists(st.integers(1, 80), max_size=4))
    edges = [
        Decimal(f"{sum(steps[: index + 1])}E-1") * 10 ** draw(st.integers(0, 1))
        for index in range(len(steps))
    ]
    ends: list[Decimal | None] = [*sorted(set(edges)), None]
    flat = from_pico if flats else st.just(Decimal(0))
    return tuple(Tier(end, draw(from_pico), draw(flat)) for end in ends)


def usd(model: Any, **more: Any) -> Price:
    return Price(model, parse_price({"model": "flat", "currency": "USD", "amount": "0"}).currency, **more)


def amount(body: dict[str, Any], quantity: str) -> str:
    return str(rate(parse_price({"currency": "USD"} | body), Decimal(quantity)).amount)


FLATS = [{"up_to": "10", "unit": "1", "flat": "5"}, {"up_to": None, "unit": "0.5", "flat": "3"}]
OVERAGE = {"model": "per_unit", "unit": "0.01", "fixed": "20", "free": "1000"}
CASES: list[tuple[dict[str, Any], str, str]] = [
    # 10 x 1 + 5; the edge belongs to the lower tier, and the flat fee of the next is due just above it
    ({"model": "graduated", "tiers": FLATS}, "10", "15.00"),
    ({"model": "graduated", "tiers": FLATS}, "10.02", "18.01"),
    ({"model": "graduated", "tiers": FLATS}, "0", "5.00"),
    ({"model": "graduated", "tiers": FLATS, "flat_at_zero": False}, "0", "0.00"),
    ({"model": "graduated", "tiers": FLATS, "flat_at_zero": False}, "1", "6.00"),
    ({"model": "volume", "tiers": FLATS, "flat_at_zero": False}, "0", "0.00"),
    ({"model": "volume", "tiers": FLATS}, "0", "5.00"),
    ({"model": "volume", "tiers": FLATS}, "10.02", "8.01"),
    # (150 - 90) / 60 = 1; usage below the free quantity makes no package
    ({"model": "package", "size": "60", "amount": "10", "free": "90"}, "150", "10.00"),
    ({"model": "package", "size": "60", "amount": "10", "free": "90"}, "151", "20.00"),
    ({"model": "package", "size": "60", "amount": "10", "free": "90"}, "12", "0.00"),
    ({"model": "package", "size": "60", "amount": "10"}, "0", "0.00"),
    ({"model": "percentage", "percent": "2.9"}, "1234.56", "35.80"),
    ({"model": "percentage", "percent": "2.9", "free": "1000", "fixed": "0.30"}, "1234.56", "7.10"),
    # a fixed fee with overage
    (OVERAGE, "0", "20.00"),
    (OVERAGE, "1000", "20.00"),
    (OVERAGE, "1050", "20.50"),
    # bounds apply to the exact amount with the fixed fee; the maximum applies last
    (OVERAGE | {"minimum": "25"}, "0", "25.00"),
    (OVERAGE | {"maximum": "20.25"}, "1050", "20.25"),
    (OVERAGE | {"minimum": "30", "maximum": "10"}, "1050", "10.00"),
    ({"model": "per_unit", "unit": "0.005", "maximum": "0.004"}, "1", "0.00"),
    ({"model": "per_unit", "unit": "0.004", "minimum": "0.005"}, "1", "0.01"),
    ({"model": "flat", "currency": "JPY", "amount": "-0.5"}, "1", "-1"),
]


@pytest.mark.req("C5", "X5")
@pytest.mark.parametrize(("body", "quantity", "expected"), CASES)
def test_models(body: dict[str, Any], quantity: str, expected: str) -> None:
    assert amount(body, quantity) == expected


@pytest.mark.req("X1")
def test_line_lists_its_calculation_steps() -> None:
    price = parse_price(
        {
            "model": "graduated",
            "currency": "USD",
            "tiers": FLATS,
            "fixed": "1",
            "minimum": "30",
            "maximum": "29.5",
        }
    )
    line = rate(price, Decimal("12.0"))

    assert [(step.description, str(step.quantity), str(step.unit_amount)) for step in line.steps] == [
        ("tier 1, up to 10", "10", "1"),
        ("flat of tier 1", "1", "5"),
        ("tier 2, without end", "2", "0.5"),
        ("flat of tier 2", "1", "3"),
        ("fixed fee", "1", "1"),
        ("raised to the minimum of 30", "1", "10"),
        ("lowered to the maximum of 29.5", "1", "-0.5"),
    ]
    assert (line.quantity, line.exact) == (Decimal(12), Fraction("29.5"))
    assert (str(line.amount), line.minor) == ("29.50", 2950)
    assert line.currency.code == "USD"


@pytest.mark.req("C5")
@pytest.mark.parametrize("quantity", [1.0, True, "1", None, Fraction(1, 3)])
def test_only_decimals_are_rated(quantity: Any) -> None:
    with pytest.raises(TypeError, match="quantity"):
        rate(usd(PerUnit(Decimal(1))), quantity)


@pytest.mark.req("C5")
@pytest.mark.parametrize(
    "text", ["-1", "-0.000000000001", "NaN", "sNaN", "Infinity", "1E+1000000", "1E-1000000"]
)
def test_impossible_quantities_are_refused(text: str) -> None:
    with pytest.raises(QuantityError, match="quantity"):
        rate(usd(PerUnit(Decimal(1))), Decimal(text))


@pytest.mark.req("C5")
@given(tier_lists(), quantities)
def test_the_callers_decimal_context_changes_nothing(tiers: tuple[Tier, ...], quantity: Decimal) -> None:
    prices = [usd(Graduated(tiers)), usd(Volume(tiers)), usd(PerUnit(tiers[0].unit, tiers[0].flat))]
    expected = [rate(price, quantity) for price in prices]

    with decimal.localcontext(decimal.Context(prec=2, rounding=decimal.ROUND_UP)):
        assert [rate(price, quantity) for price in prices] == expected


@pytest.mark.req("X1")
@given(tier_lists(), quantities, st.none() | signed, st.none() | signed, signed)
def test_steps_add_up_to_the_exact_amount_within_the_bounds(
    tiers: tuple[Tier, ...],
    quantity: Decimal,
    minimum: Decimal | None,
    maximum: Decimal | None,
    fixed: Decimal,
) -> None:
    unbounded = rate(usd(Graduated(tiers), fixed=fixed), quantity).exact
    line = rate(usd(Graduated(tiers), fixed=fixed, minimum=minimum, maximum=maximum), quantity)

    expected = unbounded if minimum is None else max(unbounded, Fraction(minimum))
    assert line.exact == (expected if maximum is None else min(expected, Fraction(maximum)))
    assert sum(step.amount for step in line.steps) == line.exact


@pytest.mark.req("C5")
@given(st.integers(0, 10**36), st.integers(-(10**30), 10**30))
def test_quantities_beyond_28_digits_are_rounded_once(quantity: int, unit: int) -> None:
    line = rate(usd(PerUnit(Decimal(f"{unit}E-12"))), Decimal(f"{quantity}E-12"))

    assert line.exact == Fraction(quantity * unit, 10**24)
    assert abs(line.minor - line.exact * 100) <= Fraction(1, 2)


@pytest.mark.req("C5")
@given(tier_lists(), st.integers(0, 60))
def test_graduated_prices_each_unit_by_its_tier(tiers: tuple[Tier, ...], units: int) -> None:
    tenths = 10 * units  # edges lie on tenths, so a tenth of a unit never spans two tiers
    tier_of_tenth = [
        next(i for i, tier in enumerate(tiers) if tier.up_to is None or Fraction(tenth, 10) <= tier.up_to)
        for tenth in range(1, tenths + 1)
    ]
    by_unit = sum(Fraction(tiers[index].unit) / 10 for index in tier_of_tenth)
    entered = sum(Fraction(tiers[index].flat) for index in {0, *tier_of_tenth})

    assert rate(usd(Graduated(tiers)), units).exact == by_unit + entered


@pytest.mark.req("C5")
@given(tier_lists(), quantities, quantities)
def test_graduated_amount_never_decreases(tiers: tuple[Tier, ...], one: Decimal, other: Decimal) -> None:
    price = usd(Graduated(tiers))

    assert rate(price, min(one, other)).exact <= rate(price, max(one, other)).exact


@pytest.mark.req("C5")
@given(tier_lists())
def test_graduated_jumps_at_an_edge_only_by_the_next_flat_fee(tiers: tuple[Tier, ...]) -> None:
    price, smallest = usd(Graduated(tiers)), Decimal("1E-30")
    for tier, following in pairwise(tiers):
        assert tier.up_to is not None
        above = decimal.Context(prec=60).add(tier.up_to, smallest)
        jump = rate(price, above).exact - rate(price, tier.up_to).exact

        assert jump == Fraction(following.flat) + Fraction(smallest) * Fraction(following.unit)


@pytest.mark.req("C5")
@given(tier_lists(), quantities)
def test_volume_uses_one_tier_only(tiers: tuple[Tier, ...], quantity: Decimal) -> None:
    holding = next(tier for tier in tiers if tier.up_to is None or quantity <= tier.up_to)

    exact = rate(usd(Volume(tiers)), quantity).exact
    assert exact == Fraction(quantity) * Fraction(holding.unit) + Fraction(holding.flat)


@pytest.mark.req("C5")
@given(tier_lists(flats=False), quantities)
def test_single_tier_equals_per_unit_in_every_model(tiers: tuple[Tier, ...], quantity: Decimal) -> None:
    only = (tiers[-1],)
    expected = rate(usd(PerUnit(only[0].unit)), quantity).exact

    assert rate(usd(Graduated(only)), quantity).exact == expected
    assert rate(usd(Volume(only)), quantity).exact == expected


@pytest.mark.req("C5")
@given(
    st.integers(0, 10**30),
    st.integers(1, 10**15),
    st.integers(0, 10**15),
    st.integers(0, 12),
    st.sampled_from("ud"),
)
def test_packages_are_counted_without_error(
    quantity: int, size: int, free: int, places: int, way: str
) -> None:
    body = {"model": "package", "currency": "JPY", "amount": "1", "round": "up" if way == "u" else "down"}
    price = parse_price(
        body | {name: format(Decimal(f"{n}E-{places}"), "f") for name, n in [("size", size), ("free", free)]}
    )
    exact = Fraction(max(quantity - free, 0), size)

    assert rate(price, Decimal(f"{quantity}E-{places}")).minor == (
        ceil(exact) if way == "u" else floor(exact)
    )


@pytest.mark.req("C5")
@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_whole_packages_need_no_rounding(count: int, size: int) -> None:
    tenths = Decimal(f"{size}E-1")
    for way in ("up", "down"):
        body = {"model": "package", "currency": "JPY", "size": str(tenths), "amount": "1", "round": way}
        assert rate(parse_price(body), Decimal(f"{count * size}E-1")).minor == count


@pytest.mark.req("C5")
@given(signed, signed, quantities)
def test_a_negated_price_credits_what_the_price_charges(
    unit: Decimal, fixed: Decimal, quantity: Decimal
) -> None:
    assume(quantity > 0)
    charge = rate(usd(PerUnit(unit), fixed=fixed), quantity)
    credit = rate(usd(PerUnit(unit.copy_negate()), fixed=fixed.copy_negate()), quantity)

    assert (charge.money + credit.money).minor == 0
