"""Decimals as the API writes them."""

from __future__ import annotations

from decimal import Decimal


def to_text(value: Decimal) -> str:
    """The shortest form without an exponent, exact at any width: equal values have equal texts."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
