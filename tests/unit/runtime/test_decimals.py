"""Decimals round-trip exactly through text and fixed point, and have one normal form."""

from __future__ import annotations

import decimal
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline import decimals
from meterline.decimals import exact_sum, of_units, parse, to_text

# More than the 28 digits of the default context: 36 digits, 12 of them after the point.
long_decimals = st.builds(lambda n: Decimal(f"{n}E-12"), st.integers(-(10**36), 10**36))


@pytest.mark.req("X1")
@given(long_decimals)
def test_decimal_round_trips_through_text_in_any_context(value: Decimal) -> None:
    with decimal.localcontext(decimal.Context(prec=3)):
        text = to_text(value)
        assert parse(text) == value
        assert to_text(parse(text)) == text


@pytest.mark.req("X1")
@given(long_decimals, long_decimals)
def test_equal_decimals_have_equal_text(one: Decimal, other: Decimal) -> None:
    assert (to_text(one) == to_text(other)) is (one == other)
    assert to_text(one) == to_text(Decimal(f"{one:f}000"))


@pytest.mark.req("T6.1", "X1")
@given(st.integers(-(10**36), 10**36), st.integers(0, 18))
def test_fixed_point_round_trips_through_decimals(units: int, scale: int) -> None:
    value = of_units(units, scale)
    assert Fraction(value) == Fraction(units, 10**scale)
    assert decimals.units_to_text(units, scale) == to_text(value)
    assert Decimal(decimals.units_in_full(units, scale)).as_tuple().exponent == -scale
    assert parse(decimals.units_in_full(units, scale)) == value


@pytest.mark.req("T8.3")
@pytest.mark.parametrize(
    "text",
    ["", "+1", "1e3", "1_000", "NaN", "Infinity", " 1", "1\n", ".5", "5.", "--1", "\N{DEVANAGARI DIGIT ONE}"],
)
def test_other_notations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="plain decimal"):
        parse(text)


@pytest.mark.req("C5", "T1.6")
@given(st.lists(long_decimals, max_size=20), st.randoms(use_true_random=False))
def test_sums_are_exact_in_any_order(values: list[Decimal], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    with decimal.localcontext(decimal.Context(prec=3)):
        total = exact_sum(shuffled)

    assert Fraction(total) == sum(map(Fraction, values))


@pytest.mark.req("C5")
def test_inexact_sum_raises() -> None:
    with pytest.raises(decimal.Inexact):
        exact_sum([Decimal("1E+2000"), Decimal("1E-2000")])


@given(st.from_regex(r"\A[+-]?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,20})?\Z"))
@pytest.mark.req("T6.1", "T8.3")
def test_decimal_of_any_exponent_is_exact_or_refused(text: str) -> None:
    """Compared with fractions, which are exact; larger exponents are refused or belong to zero."""
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > 1_000 and Fraction(mantissa):
        with pytest.raises(decimals.DecimalError) as refused:
            decimals.parse_units(text)
        wanted = "QUANTITY_TOO_PRECISE" if int(exponent) < 0 else "QUANTITY_OUT_OF_RANGE"
        assert refused.value.reason == wanted or len(text) > 64
        return
    value = Fraction(mantissa) * (Fraction(10) ** int(exponent or 0) if Fraction(mantissa) else 1)
    try:
        units, scale = decimals.parse_units(text)
    except decimals.DecimalError:
        assert len(text) > 64 or value * 10**9 % 1 != 0 or _digits(value) > decimals.MAX_DIGITS
    else:
        assert Fraction(units, 10**scale) == value
        assert Fraction(decimals.units_in_full(units, scale)) == value
        assert Fraction(decimals.units_to_text(units, scale)) == value


def _digits(value: Fraction) -> int:
    """The digits of a value with at most 9 decimals, without trailing zeros after the point."""
    units, scale = int(value * 10**9), 9
    while scale and units % 10 == 0:
        units, scale = units // 10, scale - 1
    return len(str(abs(units)))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**8), max_value=10**8))
@pytest.mark.req("T6.1")
def test_parsed_decimals_keep_their_value(value: Decimal) -> None:
    units, scale = decimals.parse_units(str(value))
    assert Decimal(units).scaleb(-scale) == value
    assert Decimal(decimals.units_to_text(units, scale)) == value


@pytest.mark.parametrize(
    "text", ["1_000", "٣", "१.५", "", "1 0", "0x1", "--1", " 1", "1\n", ".5", "5.", "1e", "e1"]
)
@pytest.mark.req("T8.3")
def test_only_plain_decimals_are_parsed(text: str) -> None:
    with pytest.raises(decimals.DecimalError) as refused:
        decimals.parse_units(text)
    assert refused.value.reason == "QUANTITY_NOT_A_DECIMAL"


@pytest.mark.parametrize(
    ("units", "scale", "text"),
    [(1250, 2, "12.5"), (0, 3, "0"), (-5, 1, "-0.5"), (100, 0, "100"), (1000, 1, "100")],
)
def test_decimals_are_written_in_shortest_form(units: int, scale: int, text: str) -> None:
    assert decimals.units_to_text(units, scale) == text


@pytest.mark.req("X1")
@pytest.mark.parametrize(
    ("value", "text"),
    [("1E+3", "1000"), ("-0.00", "0"), ("1.50", "1.5"), ("100", "100"), ("1E-12", "0.000000000001")],
)
def test_decimals_have_one_normal_form(value: str, text: str) -> None:
    assert to_text(Decimal(value)) == text
