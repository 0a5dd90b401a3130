"""Exact money: exact amounts in, one rounding to the currency's minor unit, integers and decimals out.

The default context of `decimal` silently rounds to 28 digits, so this module does not use it: it computes
with fractions, or in `EXACT`, which raises where a digit would be lost.
"""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import cache
from typing import Self, TypeAlias

import iso4217
from meterline.bounds import MAX_VALUE_DIGITS
from meterline.decimals import of_units, to_text

Exact: TypeAlias = Decimal | Fraction | int

# Bounds the work that one number can cause: `1E+1000000` is ten bytes of text and a megabyte as an integer.
MAX_DIGITS = MAX_VALUE_DIGITS


class Rounding(StrEnum):
    """How an amount exactly between two minor units is rounded."""

    # Away from zero for both signs, so that a credit is the exact negative of its charge.
    HALF_UP = "half_up"
    HALF_EVEN = "half_even"


class UnknownCurrencyError(ValueError):
    """The code is not in ISO 4217, or has no minor unit (gold, test codes)."""


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency of ISO 4217: its code, and the number of decimals of its minor unit."""

    code: str
    exponent: int


@cache
def currency(code: str) -> Currency:
    """Look up a currency by its upper-case code; raise `UnknownCurrencyError` if it cannot be used for
    billing.
    """
    try:
        exponent = iso4217.Currency(code).exponent
    except ValueError as error:
        raise UnknownCurrencyError(f"{code!r} is no currency of ISO 4217") from error
    if exponent is None:
        raise UnknownCurrencyError(f"{code!r} has no minor unit")
    return Currency(code, exponent)


@dataclass(frozen=True, slots=True)
class Money:
    """A whole number of a currency's minor units."""

    currency: Currency
    minor: int

    @classmethod
    def rounded(
        cls,
        exact: Exact,
        currency: Currency,
        rounding: Rounding = Rounding.HALF_UP,
        exponent: int | None = None,
    ) -> Self:
        """Round an exact amount in major units, once.

        `exponent` requests fewer decimals than the currency has (a provider may bill KWD with two decimals
        only).
        More than the currency has is a `ValueError`.
        """
        digits = currency.exponent if exponent is None else exponent
        if not 0 <= digits <= currency.exponent:
            raise ValueError(f"{currency.code} has {currency.exponent} decimals, not {digits}")
        units = round_units(fraction_of(exact), digits, rounding)
        return cls(currency, units * 10 ** (currency.exponent - digits))

    @classmethod
    def exactly(cls, amount: Exact, currency: Currency) -> Self:
        """Convert an amount that is a whole number of minor units; raise `ValueError` if it is not."""
        units = fraction_of(amount) * 10**currency.exponent
        if units.denominator != 1:
            raise ValueError(f"{amount} is finer than the minor unit of {currency.code}")
        return cls(currency, units.numerator)

    @property
    def amount(self) -> Decimal:
        """The amount in major units, with exactly the currency's decimals (`0.00`, `1000`, `1.235`)."""
        return of_units(self.minor, self.currency.exponent)

    def __neg__(self) -> Self:
        return type(self)(self.currency, -self.minor)

    def __add__(self, other: "Money") -> "Money":
        if other.currency != self.currency:
            raise ValueError(f"cannot add {other.currency.code} to {self.currency.code}")
        return Money(self.currency, self.minor + other.minor)


def fraction_of(value: Exact) -> Fraction:
    """Convert an exact number to a fraction.

    A float (or a bool) is a `TypeError`; NaN, an infinity, or a decimal with more than `MAX_DIGITS` digits on
    either side of its point is a `ValueError`.
    """
    if isinstance(value, Fraction):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Fraction(value)
    if not isinstance(value, Decimal):
        raise TypeError(f"needs an exact number (Decimal, Fraction or int), not {type(value).__name__}")
    check_size(value)
    return Fraction(value)


def check_size(value: Decimal) -> None:
    """Raise `ValueError` for NaN, an infinity, or more than `MAX_DIGITS` digits before or after the point."""
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"{value} is not a finite number")
    if value.adjusted() >= MAX_DIGITS or exponent < -MAX_DIGITS:
        raise ValueError(f"the number has more than {MAX_DIGITS} digits before or after its point")


def round_units(exact: Fraction, exponent: int, rounding: Rounding) -> int:
    """Round `exact` to a whole number of units of 10^-exponent."""
    scaled: Fraction = exact * 10**exponent
    if rounding is Rounding.HALF_EVEN:
        return round(scaled)
    magnitude = (2 * abs(scaled.numerator) + scaled.denominator) // (2 * scaled.denominator)
    return magnitude if scaled >= 0 else -magnitude


def exact_decimal(value: Fraction) -> Decimal:
    """Convert a fraction to a decimal; raise `ValueError` if it has no finite decimal form, such as 2/3."""
    rest = value.denominator
    twos = (rest & -rest).bit_length() - 1
    rest >>= twos
    fives = 0
    while rest % 5 == 0:
        rest //= 5
        fives += 1
    if rest != 1:
        raise ValueError(f"{value} has no finite decimal form")
    exponent = max(twos, fives)
    return of_units(value.numerator * 10**exponent // value.denominator, exponent)


def exact_text(value: Fraction) -> str:
    """Write an exact amount as a plain decimal (`0.1665`), or as `p/q` if it has no finite decimal form."""
    try:
        return to_text(exact_decimal(value))
    except ValueError:
        return str(value)
