"""Exact numbers, currencies and rounding."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.decimals import of_units, to_text
from meterline_publisher.billing.money import (
    Money,
    Rounding,
    UnknownCurrencyError,
    currency,
    exact_decimal,
    exact_text,
    fraction_of,
)
from meterline_publisher.prices.rules.parsing import parse_price
from meterline_publisher.rating.rules.rating import rate
from meterline_publisher.rating.rules.totals import totals

USD, JPY, KWD = currency("USD"), currency("JPY"), currency("KWD")

# More than the 28 digits of the default context: 36 digits, 12 of them after the point.
long_decimals = st.builds(lambda n: Decimal(f"{n}E-12"), st.integers(-(10**36), 10**36))
fractions = st.fractions(min_value=-(10**9), max_value=10**9)
roundings = st.sampled_from(Rounding)


@pytest.mark.req("C5")
@pytest.mark.parametrize(
    ("codes", "exponent"),
    [
        ("JPY KRW VND CLP ISK", 0),
        ("USD EUR GBP CHF MGA", 2),
        ("KWD BHD OMR JOD TND IQD LYD", 3),
        ("CLF UYW", 4),
    ],
)
def test_exponents_are_those_of_iso_4217(codes: str, exponent: int) -> None:
    assert {currency(code).exponent for code in codes.split()} == {exponent}


@pytest.mark.req("C5")
@pytest.mark.parametrize("code", ["", "usd", "XYZ", "XAU", "XXX", "XTS", "US"])
def test_currency_without_minor_unit_is_refused(code: str) -> None:
    with pytest.raises(UnknownCurrencyError):
        currency(code)


@pytest.mark.req("C5")
@given(fractions, roundings)
def test_credit_rounds_like_its_charge(exact: Fraction, rounding: Rounding) -> None:
    charge = Money.rounded(exact, USD, rounding)

    assert Money.rounded(-exact, USD, rounding) == -charge
    assert (charge + -charge).minor == 0


@pytest.mark.req("C5")
@given(fractions, roundings)
def test_rounding_is_off_by_half_a_unit_at_most(exact: Fraction, rounding: Rounding) -> None:
    error = abs(Money.rounded(exact, KWD, rounding).minor - exact * 1000)

    assert error <= Fraction(1, 2)


@pytest.mark.req("C5")
@given(st.integers(-(10**30), 10**30))
def test_halves_round_away_from_zero_or_to_even(units: int) -> None:
    half = Fraction(2 * units + 1, 2)

    assert Money.rounded(half, JPY).minor == (units + 1 if units >= 0 else units)
    assert Money.rounded(half, JPY, Rounding.HALF_EVEN).minor == units + units % 2


@pytest.mark.req("C5")
@given(st.integers(-(10**40), 10**40))
def test_amounts_carry_all_digits_and_the_decimals_of_the_currency(minor: int) -> None:
    for unit in (JPY, USD, KWD):
        money = Money(unit, minor)

        assert Fraction(money.amount) == Fraction(minor, 10**unit.exponent)
        assert money.amount.as_tuple().exponent == -unit.exponent
        assert Money.exactly(Fraction(money.amount), unit) == money


@pytest.mark.req("C5")
def test_inexact_or_mixed_money_is_refused() -> None:
    with pytest.raises(ValueError, match="finer"):
        Money.exactly(Decimal("0.005"), USD)
    with pytest.raises(ValueError, match="cannot add"):
        Money(USD, 1) + Money(JPY, 1)
    with pytest.raises(ValueError, match="0 decimals"):
        Money.rounded(Decimal(1), JPY, exponent=2)


@pytest.mark.req("C5")
@pytest.mark.parametrize("value", [0.5, float("nan"), True, "1", None])
def test_only_exact_numbers_become_money(value: object) -> None:
    with pytest.raises(TypeError):
        fraction_of(value)  # type: ignore[arg-type]


@pytest.mark.req("C5")
@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1E+999999", "1E-999999", "0E+999999", "1E40"]
)
def test_infinite_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        fraction_of(Decimal(text))


@pytest.mark.req("X1")
@given(long_decimals)
def test_decimals_round_trip_through_fractions_and_text(value: Decimal) -> None:
    fraction = Fraction(value)

    assert exact_decimal(fraction) == value
    assert Decimal(to_text(value)) == value
    assert Fraction(exact_text(fraction)) == fraction
    assert of_units(int(fraction * 10**12), 12) == value


@pytest.mark.req("X1")
@pytest.mark.parametrize(
    ("fraction", "text"), [("2/3", "2/3"), ("-1/6", "-1/6"), ("1/8", "0.125"), ("-20", "-20"), ("0", "0")]
)
def test_exact_amounts_are_written_in_full(fraction: str, text: str) -> None:
    assert exact_text(Fraction(fraction)) == text


@pytest.mark.req("C5")
def test_invoice_total_is_the_sum_of_its_rounded_lines_in_each_currency() -> None:
    half_cent = parse_price({"model": "per_unit", "currency": "USD", "unit": "0.005"})
    yen = parse_price({"model": "flat", "currency": "JPY", "amount": "7"})
    lines = [rate(half_cent, 1), rate(half_cent, 1), rate(yen, 1)]

    assert totals(lines) == {USD: Money(USD, 2), JPY: Money(JPY, 7)}
    assert totals([]) == {}
