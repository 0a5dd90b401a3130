"""Exact quantities as fixed point: a whole number of units of 10^-scale."""

from __future__ import annotations

from decimal import Decimal
from typing import TypeAlias

from meterline_client.limits import MAX_DIGITS, MAX_SCALE, UNITS_BOUND

# What a row holds: an integer, or (units, scale) of a value with decimals. An integer is the common case
# and stays what it is, so that a column of integers is packed without a look at each value.
FixedPoint: TypeAlias = int | tuple[int, int]

# A reduced fraction has a finite decimal form if its denominator is 2^a * 5^b; that form has max(a, b)
# decimals. So the scale, and what the numerator is multiplied with, can be looked up: several times as
# fast as taking the decimal apart digit by digit.
_BY_DENOMINATOR = {
    2**a * 5**b: (max(a, b), 10 ** max(a, b) // (2**a * 5**b))
    for a in range(MAX_SCALE + 1)
    for b in range(MAX_SCALE + 1)
}

# Far more than a value needs, and so short that arithmetic on it is quick.
_MAX_WRITTEN_LENGTH = 100


def fixed_point(value: object) -> FixedPoint:
    """Turn an int or a Decimal into fixed point with as few decimals as it needs.

    TypeError for any other type (float and bool too); ValueError for NaN, an infinity, more than 18 digits
    or more than 9 decimals. The message is the rule, without the field.
    """
    if isinstance(value, Decimal):
        return _of_decimal(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _bounded(int(value), 0)
    hint = " (a float cannot hold a decimal amount exactly)" if isinstance(value, float) else ""
    raise TypeError(f"must be int or decimal.Decimal, not {type(value).__name__}{hint}")


def _of_decimal(value: Decimal) -> FixedPoint:
    if not value.is_finite():
        raise ValueError("must be a finite number")
    if not value:
        return 0
    # Checked before any arithmetic: 1E+1000000 is ten characters as text and a megabyte as an integer.
    magnitude = value.adjusted()
    if magnitude >= MAX_DIGITS:
        raise ValueError(f"must have at most {MAX_DIGITS} digits")
    if magnitude < -MAX_SCALE or len(str(value)) > _MAX_WRITTEN_LENGTH:
        raise ValueError(f"must have at most {MAX_SCALE} decimals")
    numerator, denominator = value.as_integer_ratio()
    found = _BY_DENOMINATOR.get(denominator)
    if found is None:
        raise ValueError(f"must have at most {MAX_SCALE} decimals")
    scale, factor = found
    return _bounded(numerator * factor, scale)


def _bounded(units: int, scale: int) -> FixedPoint:
    if not -UNITS_BOUND < units < UNITS_BOUND:
        raise ValueError(f"must have at most {MAX_DIGITS} digits")
    return (units, scale) if scale else units


def reduced(units: int, scale: int) -> FixedPoint:
    """The same value with as few decimals as it needs."""
    while scale and units % 10 == 0:
        units //= 10
        scale -= 1
    return (units, scale) if scale else units


def to_decimal(value: FixedPoint) -> Decimal:
    """The exact value, whatever the caller's decimal context."""
    return Decimal(value) if isinstance(value, int) else Decimal(f"{value[0]}E-{value[1]}")
