"""Prices as values: the fields of each pricing model, and one canonical body per price.

A body is the JSON form of a price (see `parsing.parse_price`). The canonical body omits default values and
writes decimals in normal form, so two prices are equal if and only if their digests are.
"""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from meterline.decimals import to_text

from meterline_publisher.billing import canonical
from meterline_publisher.billing.canonical import Json
from meterline_publisher.billing.money import Currency, Rounding

ZERO = Decimal(0)


class PackageRounding(StrEnum):
    """Whether a started package is charged (`up`), or only a full one (`down`)."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Tier:
    """A range of quantity that ends at `up_to`, inclusive; the last tier of a price has no end."""

    up_to: Decimal | None
    unit: Decimal
    flat: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Flat:
    """An amount that does not depend on the quantity."""

    amount: Decimal


@dataclass(frozen=True, slots=True)
class PerUnit:
    """`unit` for each unit beyond the first `free` ones."""

    unit: Decimal
    free: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit at the price of its tier, and the flat of every tier that the quantity enters.

    A quantity of 0 enters the first tier, unless `flat_at_zero` is false.
    """

    tiers: tuple[Tier, ...]
    flat_at_zero: bool = True


@dataclass(frozen=True, slots=True)
class Volume:
    """All units at the price of the tier that contains the total, and that tier's flat.

    A quantity of 0 is in the first tier; its flat is charged unless `flat_at_zero` is false.
    """

    tiers: tuple[Tier, ...]
    flat_at_zero: bool = True


@dataclass(frozen=True, slots=True)
class Package:
    """`amount` for each package of `size` units beyond the first `free` ones."""

    size: Decimal
    amount: Decimal
    free: Decimal = ZERO
    round: PackageRounding = PackageRounding.UP


@dataclass(frozen=True, slots=True)
class Percentage:
    """`percent` hundredths of the quantity (an amount of money) beyond its first `free` part."""

    percent: Decimal
    free: Decimal = ZERO


Model: TypeAlias = Flat | PerUnit | Graduated | Volume | Package | Percentage

MODELS: dict[str, type[Model]] = {
    "flat": Flat,
    "per_unit": PerUnit,
    "graduated": Graduated,
    "volume": Volume,
    "package": Package,
    "percentage": Percentage,
}
_NAMES = {model: name for name, model in MODELS.items()}


@dataclass(frozen=True, slots=True)
class Price:
    """A price: its model, and the fields that apply to every model.

    The exact amount of a line is `fixed` plus the model's charge for the quantity, raised to `minimum`, then
    lowered to `maximum` (which therefore wins), then rounded once. A fixed fee with overage is `fixed` with a
    `free` quantity.
    """

    model: Model
    currency: Currency
    fixed: Decimal = ZERO
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    rounding: Rounding = Rounding.HALF_UP

    def body(self) -> dict[str, Json]:
        """Return the canonical body: a JSON object that parses to an equal price."""
        body: dict[str, Json] = {"model": _NAMES[type(self.model)], "currency": self.currency.code}
        body.update(_model_fields(self.model))
        if self.fixed:
            body["fixed"] = to_text(self.fixed)
        if self.minimum is not None:
            body["minimum"] = to_text(self.minimum)
        if self.maximum is not None:
            body["maximum"] = to_text(self.maximum)
        if self.rounding is not Rounding.HALF_UP:
            body["rounding"] = self.rounding.value
        return body

    def digest(self) -> str:
        """Return the SHA-256 of the canonical body, as 64 lower-case hexadecimal digits."""
        return canonical.digest(self.body())


def _model_fields(model: Model) -> dict[str, Json]:
    match model:
        case Flat(amount):
            return {"amount": to_text(amount)}
        case PerUnit(unit, free):
            return {"unit": to_text(unit)} | _free(free)
        case Percentage(percent, free):
            return {"percent": to_text(percent)} | _free(free)
        case Package(size, amount, free, rounding):
            fields: dict[str, Json] = {"size": to_text(size), "amount": to_text(amount)} | _free(free)
            return fields if rounding is PackageRounding.UP else fields | {"round": rounding.value}
        case Graduated(tiers, flat_at_zero) | Volume(tiers, flat_at_zero):
            fields = {"tiers": [_tier_fields(tier) for tier in tiers]}
            return fields if flat_at_zero else fields | {"flat_at_zero": False}


def _free(free: Decimal) -> dict[str, Json]:
    return {"free": to_text(free)} if free else {}


def _tier_fields(tier: Tier) -> dict[str, Json]:
    up_to = None if tier.up_to is None else to_text(tier.up_to)
    return {"up_to": up_to, "unit": to_text(tier.unit), "flat": to_text(tier.flat)}
