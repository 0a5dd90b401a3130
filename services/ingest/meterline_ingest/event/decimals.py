"""Decimals as people write them, to fixed point.

The grammar is that of numbers in JSON, with leading zeros and a plus sign allowed, in ASCII and without
blanks: `12`, `-0.5`, `+7`, `1.50`, `1e3`, `2.5E-4`; not `.5`, `5.`, ` 12`, `1_000`, `0x1`, `NaN`.

All arithmetic is on whole numbers. Python's `Decimal` rounds to 28 digits in most operations, and fails or
turns to 0 where an exponent is extreme.
"""

from __future__ import annotations

import re
from typing import Final

MAX_DIGITS: Final = 18
"""Of a value at the scale of its type: 10^18 is the greatest power of ten in 64 bits."""
MAX_UNITS: Final = 10**MAX_DIGITS
MAX_SCALE: Final = 9
POWERS: Final[tuple[int, ...]] = tuple(10**exponent for exponent in range(MAX_SCALE + 1))

_LONGEST: Final = 64
_GRAMMAR: Final = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")
_NO_NUMBER: Final = re.compile(r"[+-]?(?:s?nan[0-9]*|inf|infinity)", re.IGNORECASE)
# Reasons and rules.
TOO_LARGE: Final = (
    "QUANTITY_OUT_OF_RANGE",
    f"at most {MAX_DIGITS} digits, those behind the point too",
)
TOO_PRECISE: Final = "QUANTITY_TOO_PRECISE", f"at most {MAX_SCALE} decimals"


class DecimalError(ValueError):
    """A text that is no decimal we take; `reason` is the outcome's code."""

    def __init__(self, reason: str, rule: str) -> None:
        super().__init__(rule)
        self.reason = reason


def parse(text: str) -> tuple[int, int]:
    """(units, scale) with value = units / 10^scale, for example "12.50" -> (1250, 2).

    Raises DecimalError.
    """
    if len(text) > _LONGEST:
        raise DecimalError(*TOO_LARGE)
    whole, _, decimals = text.partition(".")
    digits = whole + decimals
    short = len(digits) <= MAX_DIGITS and len(decimals) <= MAX_SCALE
    if whole and short and digits.isdigit() and digits.isascii() and not text.endswith("."):
        # What nearly all texts look like, without the grammar.
        return int(digits), len(decimals)
    found = _GRAMMAR.fullmatch(text)
    if found is None:
        if _NO_NUMBER.fullmatch(text):
            raise DecimalError("QUANTITY_NOT_FINITE", "a finite number")
        raise DecimalError("QUANTITY_NOT_A_DECIMAL", "a decimal number, for example 12.5")
    sign, whole, decimals, exponent = found.groups("")
    units = int(whole + decimals)
    return fixed(-units if sign == "-" else units, len(decimals) - int(exponent or 0))


def fixed(units: int, scale: int) -> tuple[int, int]:
    """The same value with as few decimals as it needs, for any scale, also a negative one.

    Raises DecimalError when it has more than MAX_SCALE decimals or MAX_DIGITS digits.
    """
    if not units:
        return 0, 0
    while units % 10 == 0:
        units //= 10
        scale -= 1
    if scale > MAX_SCALE:
        raise DecimalError(*TOO_PRECISE)
    # Held against the exponent before the multiplication, which could fill the memory.
    if len(str(abs(units))) + max(0, -scale) > MAX_DIGITS:
        raise DecimalError(*TOO_LARGE)
    return (units * 10**-scale, 0) if scale < 0 else (units, scale)


def to_text(units: int, scale: int) -> str:
    """The shortest form, for example (1250, 2) -> "12.5"."""
    while scale and units % 10 == 0:
        units //= 10
        scale -= 1
    return written(units, scale)


def written(units: int, scale: int) -> str:
    """With all its decimals, also those that are zero, for example (1250, 2) -> "12.50"."""
    digits = str(abs(units)).rjust(scale + 1, "0")
    point = len(digits) - scale
    return "-" * (units < 0) + (f"{digits[:point]}.{digits[point:]}" if scale else digits)
