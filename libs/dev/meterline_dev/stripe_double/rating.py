"""A price applied to a quantity: exact decimals, and one rounding at the very end.

Quantities are whole numbers (the meter's aggregated value), amounts are in the currency's minor units.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact, localcontext
from typing import Any

# Wide enough for 19-digit quantities at prices of 15 + 12 digits, summed over tiers. If it ever were not,
# the trap turns a silently rounded step into an error.
_EXACT = Context(prec=80, traps=[Inexact])
_ROUNDING = Context(prec=80, rounding=ROUND_HALF_UP)

# Stripe bills these in steps: three-decimal currencies in tens, currencies that lost their decimals but
# kept two in the API in hundreds.
_STEP: Mapping[str, int] = {"bhd": 10, "jod": 10, "kwd": 10, "omr": 10, "tnd": 10, "isk": 100, "ugx": 100}


def amount(price: Mapping[str, Any], quantity: int) -> int:
    """What `quantity` (not negative) costs under `price`, a price object with its tiers: minor units.

    Rounded once, half up, to what the currency can be billed in.
    """
    with localcontext(_EXACT):
        exact = _exact_amount(price, quantity)
    step = _STEP.get(str(price["currency"]), 1)
    steps = _ROUNDING.divide(exact, Decimal(step)).to_integral_value(ROUND_HALF_UP)
    return int(steps) * step


def _exact_amount(price: Mapping[str, Any], quantity: int) -> Decimal:
    if price["billing_scheme"] == "tiered":
        compute = _volume if price["tiers_mode"] == "volume" else _graduated
        return compute(price["tiers"], quantity)
    units = _transformed(price["transform_quantity"], quantity)
    return Decimal(units) * _decimal(price["unit_amount_decimal"])


def _transformed(rule: Mapping[str, Any] | None, quantity: int) -> int:
    """Packages: the quantity in units of `divide_by`, rounded up or down."""
    if rule is None:
        return quantity
    size: int = rule["divide_by"]
    whole, rest = divmod(quantity, size)
    return whole + 1 if rest and rule["round"] == "up" else whole


def _volume(tiers: Sequence[Mapping[str, Any]], quantity: int) -> Decimal:
    """All units at the one tier that holds the total."""
    tier = next(tier for tier in tiers if tier["up_to"] is None or quantity <= tier["up_to"])
    return _flat(tier) + Decimal(quantity) * _unit(tier)


def _graduated(tiers: Sequence[Mapping[str, Any]], quantity: int) -> Decimal:
    """Each unit at its own tier, and the flat of every tier entered; the first is entered at zero."""
    total, below = Decimal(0), 0
    for index, tier in enumerate(tiers):
        if index and quantity <= below:
            break
        top = quantity if tier["up_to"] is None else min(quantity, tier["up_to"])
        total += _flat(tier) + Decimal(top - below) * _unit(tier)
        below = top
    return total


def _unit(tier: Mapping[str, Any]) -> Decimal:
    return _decimal(tier["unit_amount_decimal"])


def _flat(tier: Mapping[str, Any]) -> Decimal:
    return _decimal(tier["flat_amount_decimal"])


def _decimal(text: str | None) -> Decimal:
    return Decimal(text) if text is not None else Decimal(0)
