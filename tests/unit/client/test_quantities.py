"""Quantities are kept exactly, or refused with the broken rule."""

import decimal
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_client.quantities import fixed_point, reduced, to_decimal

exact = st.builds(
    lambda units, scale: Decimal(f"{units}E-{scale}"),
    st.integers(-(10**18) + 1, 10**18 - 1),
    st.integers(0, 9),
)


@pytest.mark.req("T1.1")
@settings(deadline=None)
@given(st.one_of(exact, st.integers(-(10**18) + 1, 10**18 - 1)))
def test_valid_quantity_is_kept_exactly_in_its_shortest_form(value: Decimal | int) -> None:
    held = fixed_point(value)

    assert to_decimal(held) == value
    assert isinstance(held, int) or (held[0] % 10 and held[1] > 0)


@pytest.mark.req("T1.1")
@settings(deadline=None)
@given(exact)
def test_quantity_ignores_the_callers_decimal_context(value: Decimal) -> None:
    with decimal.localcontext(decimal.Context(prec=1)):
        held = to_decimal(fixed_point(value))

    assert held == value


@pytest.mark.req("T1.1")
@settings(deadline=None)
@given(st.integers(-(10**18) + 1, 10**18 - 1), st.integers(0, 9))
def test_reducing_keeps_the_value(units: int, scale: int) -> None:
    assert to_decimal(reduced(units, scale)) == Decimal(f"{units}E-{scale}")


@pytest.mark.req("T1.1")
@pytest.mark.parametrize("value", [12.5, float("nan"), True, "12.5", None, 1j, [1]])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"must be int or decimal\.Decimal"):
        fixed_point(value)


@pytest.mark.req("T1.1")
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (Decimal("NaN"), "finite"),
        (Decimal("sNaN"), "finite"),
        (Decimal("-Infinity"), "finite"),
        (10**18, "18 digits"),
        (-(10**18), "18 digits"),
        (2**63, "18 digits"),
        (Decimal("1E+18"), "18 digits"),
        (Decimal("1234567890123.123456"), "18 digits"),
        (Decimal("1E-10"), "9 decimals"),
        (Decimal("0.0000000001"), "9 decimals"),
        (Decimal("1.0000000001"), "9 decimals"),
    ],
)
def test_quantity_out_of_range_is_refused(value: Decimal | int, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        fixed_point(value)


@pytest.mark.req("T1.1")
@pytest.mark.parametrize("text", ["0", "-0", "0E+400", "0E-400", "0.000"])
def test_all_spellings_of_zero_are_equal(text: str) -> None:
    assert fixed_point(Decimal(text)) == 0


@pytest.mark.req("T7.1")
@pytest.mark.parametrize("text", ["1E+900000", "1E-900000", "1." + "0" * 200_000 + "1"])
def test_huge_exponent_is_refused_quickly(text: str) -> None:
    value = Decimal(text)
    before = time.process_time()

    with pytest.raises(ValueError, match="at most"):
        fixed_point(value)

    assert time.process_time() - before < 0.1
