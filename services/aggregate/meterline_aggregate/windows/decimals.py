"""Decimals as the API writes them."""

from __future__ import annotations

import decimal
from decimal import Decimal
from typing import Final

# The default context rounds at 28 digits without a word; this one fails instead.
EXACT: Final = decimal.Context(prec=1000, traps=[decimal.Inexact, decimal.InvalidOperation])


def of_units(units: int, scale: int) -> Decimal:
    """units / 10^scale."""
    return Decimal(f"{units}e-{scale}")


def to_units(value: Decimal) -> tuple[int, int]:
    """(units, scale) of a finite number: the inverse of `of_units`."""
    scale = max(0, -int(value.as_tuple().exponent))
    return int(value.scaleb(scale, EXACT)), scale


def to_text(value: Decimal) -> str:
    """The shortest form without an exponent, exact at any width: equal values have equal texts."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
