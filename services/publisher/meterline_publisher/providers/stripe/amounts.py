"""Amounts as Stripe writes them: whole numbers in units that depend on the currency.

Stripe differs from ISO 4217 in three ways. Some currencies without decimals, and MGA, count whole units; ISK
and UGX have no decimals but are written with two; and the last of three decimals must be 0.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from meterline.decimals import of_units

_WHOLE: Final = frozenset(
    ["BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"]
)
_WRITTEN_WITH_TWO: Final = frozenset({"ISK", "UGX"})
_THREE: Final = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})


def major(amount: int, currency: str) -> Decimal:
    """An amount of the API (`1099`, `usd`) in major units (10.99)."""
    code = currency.upper()
    return of_units(amount, 0 if code in _WHOLE else 3 if code in _THREE else 2)


def decimals(currency: str) -> int:
    """The number of decimals to which Stripe bills in a currency."""
    code = currency.upper()
    return 0 if code in _WHOLE or code in _WRITTEN_WITH_TWO else 2
