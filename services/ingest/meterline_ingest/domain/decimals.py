"""Decimals as people write them, to fixed point."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

MAX_DIGITS: Final = 15
MAX_UNITS: Final = 10**MAX_DIGITS
MAX_SCALE: Final = 9
POWERS: Final[tuple[int, ...]] = tuple(10**exponent for exponent in range(MAX_SCALE + 1))


class DecimalError(ValueError):
    """A text that is no decimal we take; `reason` is the outcome's code."""

    def __init__(self, reason: str, rule: str) -> None:
        super().__init__(rule)
        self.reason = reason


def parse(text: str) -> tuple[int, int]:
    """(units, scale) with value = units / 10^scale, for example "12.50" -> (1250, 2).

    Raises DecimalError.
    """
    if len(text) > 64:
        raise DecimalError("QUANTITY_OUT_OF_RANGE", f"at most {MAX_DIGITS} significant digits")
    whole, _, decimals = text.partition(".")
    digits = whole + decimals
    short = len(digits) <= MAX_DIGITS and len(decimals) <= MAX_SCALE
    if whole and short and digits.isdigit() and digits.isascii():
        # What nearly all texts look like, without the detour over Decimal.
        return int(digits), len(decimals)
    try:
        if "_" in text or not text.isascii():
            raise InvalidOperation  # Python's own ways to write a number
        value = Decimal(text)
    except InvalidOperation:
        raise DecimalError("QUANTITY_NOT_A_DECIMAL", "a decimal number, for example 12.5") from None
    if not value.is_finite():
        raise DecimalError("QUANTITY_NOT_FINITE", "a finite number")
    sign, figures, exponent = value.normalize().as_tuple()
    assert isinstance(exponent, int)
    if exponent < -MAX_SCALE:
        raise DecimalError("QUANTITY_TOO_PRECISE", f"at most {MAX_SCALE} decimals")
    if len(figures) + max(0, exponent) > MAX_DIGITS:
        raise DecimalError("QUANTITY_OUT_OF_RANGE", f"at most {MAX_DIGITS} significant digits")
    units = int("".join(map(str, figures))) * 10 ** max(0, exponent)
    return (-units if sign else units), max(0, -exponent)


def to_text(units: int, scale: int) -> str:
    """The shortest form, for example (1250, 2) -> "12.5"."""
    return format((Decimal(units) / POWERS[scale]).normalize() + 0, "f") if scale else str(units)
