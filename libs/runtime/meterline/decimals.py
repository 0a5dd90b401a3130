"""Exact decimals: from text, to text, and as fixed point (units / 10^scale).

The default context of `decimal` silently rounds to 28 digits, so nothing here computes in it: arithmetic is
on whole numbers, or in `EXACT`, which raises where a digit would be lost.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Iterable
from decimal import Decimal
from functools import reduce
from typing import Final

EXACT: Final = decimal.Context(
    prec=1000,
    traps=[decimal.Inexact, decimal.InvalidOperation, decimal.DivisionByZero, decimal.FloatOperation],
)

MAX_DIGITS: Final = 18
"""Of a quantity at the scale of its type: 10^18 is the greatest power of ten in 64 bits."""
MAX_UNITS: Final = 10**MAX_DIGITS
MAX_SCALE: Final = 9
POWERS: Final[tuple[int, ...]] = tuple(10**exponent for exponent in range(MAX_SCALE + 1))

_LONGEST: Final = 64
_PLAIN: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_GRAMMAR: Final = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")
_NO_NUMBER: Final = re.compile(r"[+-]?(?:s?nan[0-9]*|inf|infinity)", re.IGNORECASE)
# Reasons and rules.
TOO_LARGE: Final = (
    "QUANTITY_OUT_OF_RANGE",
    f"at most {MAX_DIGITS} digits, those behind the point too",
)
TOO_PRECISE: Final = "QUANTITY_TOO_PRECISE", f"at most {MAX_SCALE} decimals"


class DecimalError(ValueError):
    """A text that is no valid quantity; `reason` is the outcome's code."""

    def __init__(self, reason: str, rule: str) -> None:
        super().__init__(rule)
        self.reason = reason


def parse(text: str) -> Decimal:
    """The value of a plain decimal: ASCII digits, a minus sign and a point between digits at the most.

    Any number of digits is kept. Raises ValueError for other text, also for `1_000`, `NaN`, `1e9` and blanks,
    which `Decimal` itself would take.
    """
    if not _PLAIN.fullmatch(text):
        raise ValueError("not a plain decimal, for example 12.5")
    return Decimal(text)


def to_text(value: Decimal) -> str:
    """The one normal form of a decimal, exact at any width: no exponent, no zeros at the end, no minus before
    zero. Equal values have equal texts."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def of_units(units: int, scale: int) -> Decimal:
    """units / 10^scale, with exactly `scale` decimals; unlike `scaleb`, never rounded."""
    return Decimal(f"{units}e-{scale}")


def to_units(value: Decimal) -> tuple[int, int]:
    """(units, scale) of a finite number: the inverse of `of_units`."""
    scale = max(0, -int(value.as_tuple().exponent))
    return int(value.scaleb(scale, EXACT)), scale


def exact_sum(values: Iterable[Decimal]) -> Decimal:
    """The sum of decimals without losing a digit, whatever the caller's decimal context; 0 for none."""
    return reduce(EXACT.add, values, Decimal(0))


def parse_units(text: str) -> tuple[int, int]:
    """A quantity as people write it: (units, scale), for example "12.50" -> (1250, 2).

    The grammar is that of numbers in JSON, with leading zeros and a plus sign allowed, in ASCII and without
    blanks: `12`, `-0.5`, `+7`, `1.50`, `1e3`, `2.5E-4`; not `.5`, `5.`, ` 12`, `1_000`, `0x1`, `NaN`.
    Raises DecimalError, also for more than MAX_SCALE decimals or MAX_DIGITS digits.
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
    # Python's own decimals fail or turn to 0 where an exponent is extreme.
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


def units_to_text(units: int, scale: int) -> str:
    """The normal form, for example (1250, 2) -> "12.5"."""
    while scale and units % 10 == 0:
        units //= 10
        scale -= 1
    return units_in_full(units, scale)


def units_in_full(units: int, scale: int) -> str:
    """With all its decimals, also those that are zero, for example (1250, 2) -> "12.50"."""
    digits = str(abs(units)).rjust(scale + 1, "0")
    point = len(digits) - scale
    return "-" * (units < 0) + (f"{digits[:point]}.{digits[point:]}" if scale else digits)
