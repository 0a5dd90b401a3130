"""Parses a price body, as customers and operators write it, to a `Price`, or raises the first broken rule.

A body is a JSON object. Every field of every model:

    model          flat | per_unit | graduated | volume | package | percentage
    currency       code of ISO 4217
    amount         flat: of the line; package: of one package
    unit           per_unit: of one unit
    percent        percentage: 2.9 is 2.9 % of the quantity
    size, round    package: units in one, > 0; a started package is charged (up, the default) or not (down)
    free           per_unit, package, percentage: quantity that is not charged, >= 0
    tiers          graduated, volume: a list of {up_to, unit, flat}; up_to is inclusive, rises from tier to
                   tier, and is null in the last one alone; unit or flat may be left out, then it is 0
    flat_at_zero   graduated, volume: whether a quantity of 0 owes the first tier's flat (default true)
    fixed          all but flat: a fee added to the model's charge
    minimum, maximum   bounds of the exact amount, applied in this order
    rounding       half_up (away from zero, the default) | half_even

Amounts may be negative (credits). Numbers are strings in plain notation (`-0.0005`) or integers; floats
are refused. Fields that the model does not have are refused too: a misspelt `maximum` must not become a
price without one.
"""

from meterline_publisher.billing.money import Currency, Rounding, UnknownCurrencyError, currency
from meterline_publisher.prices.rules.fields import Fields, PriceError, Rule
from meterline_publisher.prices.rules.prices import (
    MODELS,
    ZERO,
    Flat,
    Graduated,
    Model,
    Package,
    PackageRounding,
    Percentage,
    PerUnit,
    Price,
    Tier,
    Volume,
)


def parse_price(body: object) -> Price:
    """Parse and check a price body (a JSON object); raise `PriceError` for the first broken rule."""
    fields = Fields(body, "")
    name = fields.text("model", Rule.CHOICE)
    if name not in MODELS:
        raise PriceError("model", Rule.CHOICE)
    code = fields.text("currency", Rule.CURRENCY)
    model = _parse_model(MODELS[name], fields)
    price = Price(
        model=model,
        currency=_currency(code),
        fixed=ZERO if isinstance(model, Flat) else fields.decimal("fixed", ZERO),
        minimum=fields.optional_decimal("minimum"),
        maximum=fields.optional_decimal("maximum"),
        rounding=fields.choice("rounding", Rounding.HALF_UP),
    )
    fields.finish()
    return price


def _parse_model(kind: type[Model], fields: Fields) -> Model:
    if kind is Flat:
        return Flat(fields.decimal("amount"))
    if kind is PerUnit:
        return PerUnit(fields.decimal("unit"), fields.not_negative("free"))
    if kind is Percentage:
        return Percentage(fields.decimal("percent"), fields.not_negative("free"))
    if kind is Package:
        return Package(
            size=fields.positive("size"),
            amount=fields.decimal("amount"),
            free=fields.not_negative("free"),
            round=fields.choice("round", PackageRounding.UP),
        )
    tiered = Graduated if kind is Graduated else Volume
    return tiered(_parse_tiers(fields.take("tiers")), fields.flag("flat_at_zero", default=True))


def _parse_tiers(value: object) -> tuple[Tier, ...]:
    if value is None:
        raise PriceError("tiers", Rule.REQUIRED)
    if not isinstance(value, list | tuple) or not value:
        raise PriceError("tiers", Rule.TIER_LIST)
    tiers = tuple(_parse_tier(Fields(item, f"tiers.{index}.")) for index, item in enumerate(value))
    edge = ZERO
    for index, tier in enumerate(tiers):
        field = f"tiers.{index}.up_to"
        if (tier.up_to is None) != (index == len(tiers) - 1):
            raise PriceError(field, Rule.LAST_TIER_OPEN)
        if tier.up_to is not None:
            if tier.up_to <= edge:
                raise PriceError(field, Rule.TIER_ORDER if index else Rule.POSITIVE)
            edge = tier.up_to
    return tiers


def _parse_tier(fields: Fields) -> Tier:
    up_to = fields.optional_decimal("up_to")
    flat = fields.optional_decimal("flat")
    unit = fields.decimal("unit", default=None if flat is None else ZERO)
    fields.finish()
    return Tier(up_to, unit, ZERO if flat is None else flat)


def _currency(code: str) -> Currency:
    try:
        return currency(code)
    except UnknownCurrencyError as error:
        raise PriceError("currency", Rule.CURRENCY) from error
