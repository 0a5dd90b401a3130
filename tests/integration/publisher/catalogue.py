"""Prices of the catalogue, and the equivalent Stripe prices."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

PER_UNIT = {"model": "per_unit", "currency": "USD", "unit": "0.01"}
GRADUATED = {
    "model": "graduated",
    "currency": "USD",
    "tiers": [
        {"up_to": "100", "unit": "0.05", "flat": "2"},
        {"up_to": "1000", "unit": "0.0305"},
        {"up_to": None, "unit": "0.0101", "flat": "1.5"},
    ],
}
VOLUME = {
    "model": "volume",
    "currency": "USD",
    "tiers": [{"up_to": "500", "unit": "0.031"}, {"up_to": None, "unit": "0.0207", "flat": "3"}],
}
PACKAGE = {"model": "package", "currency": "USD", "size": "60", "amount": "1.75"}


@dataclass(frozen=True)
class Priced:
    """A meter with its price. `scale`: values are sent multiplied by 10^scale."""

    meter: str
    body: dict[str, Any]
    scale: int = 0


def stripe_terms(priced: Priced) -> dict[str, Any]:
    """The parameters of a Stripe price that bills the same for scaled quantities."""
    body, factor = priced.body, 10**priced.scale
    match body["model"]:
        case "per_unit":
            return {"unit_amount_decimal": _cents(body["unit"], factor)}
        case "package":
            size = int(body["size"]) * factor
            return {
                "unit_amount_decimal": _cents(body["amount"]),
                "transform_quantity": {"divide_by": size, "round": "up"},
            }
        case mode:
            tiers = [_tier(tier, factor) for tier in body["tiers"]]
            return {"billing_scheme": "tiered", "tiers_mode": mode, "tiers": tiers}


def _tier(tier: dict[str, Any], factor: int) -> dict[str, Any]:
    up_to = "inf" if tier["up_to"] is None else int(tier["up_to"]) * factor
    found: dict[str, Any] = {"up_to": up_to, "unit_amount_decimal": _cents(tier.get("unit", "0"), factor)}
    return found | ({"flat_amount_decimal": _cents(tier["flat"])} if "flat" in tier else {})


def _cents(amount: str, factor: int = 1) -> str:
    return format(Decimal(amount) * 100 / factor, "f")
