"""The prices: four plans, each with a price for each meter, in every model that both sides can bill.

A price is written once, as Meterline takes it; the price at Stripe is derived from that, so that the two
cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

from meterline_dev.demo.carriers import CURRENCY

Body: TypeAlias = dict[str, Any]


def _per_unit(unit: str) -> Body:
    return {"model": "per_unit", "currency": CURRENCY, "unit": unit}


def _package(size: str, amount: str) -> Body:
    return {"model": "package", "currency": CURRENCY, "size": size, "amount": amount}


def _tiered(model: str, *tiers: tuple[str | None, str, str]) -> Body:
    """Tiers are (up to, price of a unit, flat)."""
    bodies = [{"up_to": up_to, "unit": unit, "flat": flat} for up_to, unit, flat in tiers]
    return {"model": model, "currency": CURRENCY, "tiers": bodies}


# plan -> meter -> price
PLANS: Final[Mapping[str, Mapping[str, Body]]] = {
    "starter": {
        "departures": _per_unit("14.50"),
        "air_minutes": _per_unit("0.0925"),
        "miles": _per_unit("0.00455"),
        "aircraft": _per_unit("95.00"),
    },
    "growth": {
        "departures": _tiered("graduated", ("25", "13.00", "0"), ("1000", "11.25", "0"), (None, "9.80", "0")),
        "air_minutes": _tiered(
            "graduated", ("10000", "0.085", "150.00"), ("75000", "0.0725", "0"), (None, "0.0615", "0")
        ),
        "miles": _package("1000", "3.90"),
        "aircraft": _tiered("graduated", ("10", "90.00", "0"), ("100", "72.50", "0"), (None, "61.00", "0")),
    },
    "scale": {
        "departures": _tiered("volume", ("1500", "9.75", "0"), ("4000", "8.60", "0"), (None, "7.95", "0")),
        "air_minutes": _tiered(
            "volume", ("250000", "0.0585", "0"), ("750000", "0.0512", "0"), (None, "0.0468", "500.00")
        ),
        "miles": _per_unit("0.002875"),
        "aircraft": _tiered("volume", ("250", "58.00", "0"), (None, "49.50", "1000.00")),
    },
    "bulk": {
        "departures": _package("50", "435.00"),
        "air_minutes": _package("600", "34.20"),
        "miles": _package("5000", "16.75"),
        "aircraft": _per_unit("64.00"),
    },
}


def stripe_price(body: Body) -> dict[str, Any]:
    """The same price in the terms of Stripe: cents, tiers, and packages as a transformed quantity."""
    match body["model"]:
        case "per_unit":
            return {"unit_amount_decimal": _cents(body["unit"])}
        case "package":
            rounding = {"divide_by": int(body["size"]), "round": "up"}
            return {"unit_amount_decimal": _cents(body["amount"]), "transform_quantity": rounding}
        case "graduated" | "volume" as mode:
            tiers = _stripe_tiers(body["tiers"])
            return {"billing_scheme": "tiered", "tiers_mode": mode, "tiers": tiers}
        case model:
            raise ValueError(f"Stripe has no counterpart of the model {model}")


def _stripe_tiers(tiers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "up_to": "inf" if tier["up_to"] is None else int(tier["up_to"]),
            "unit_amount_decimal": _cents(tier["unit"]),
            "flat_amount_decimal": _cents(tier["flat"]),
        }
        for tier in tiers
    ]


def _cents(dollars: str) -> str:
    return f"{Decimal(dollars) * 100:f}"
