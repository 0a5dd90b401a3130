"""Metered monthly prices: per unit, packages (`transform_quantity`), graduated and volume tiers.

Amounts are decimal strings in minor units throughout; the corresponding integer fields are filled where the
decimal is whole, as Stripe does.
"""

from decimal import Decimal
from itertools import pairwise

from . import lists, products
from .core import Core
from .errors import conflict, invalid_parameter, missing_parameter
from .ids import new_id
from .params import Params
from .request import ApiRequest
from .store import JsonObject


def create(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    scheme = params.choice("billing_scheme", ("per_unit", "tiered"), default="per_unit")
    body: JsonObject = {
        "id": new_id("price"),
        "object": "price",
        "active": params.boolean("active", default=True),
        "billing_scheme": scheme,
        "created": core.now(None),
        "currency": _currency(params),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": params.string("lookup_key", max_length=200),
        "metadata": params.metadata(),
        "nickname": params.string("nickname"),
        "recurring": _recurring(core, params.mapping("recurring")),
        "tax_behavior": "unspecified",
        "tiers": None,
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring",
        "unit_amount": None,
        "unit_amount_decimal": None,
    }
    body |= _tiered(params) if scheme == "tiered" else _per_unit(params)
    body["product"] = _product(core, params)
    params.finish()
    core.store.insert(body)
    return body


def retrieve(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require("price", request.ids["id"])


def list_(core: Core, request: ApiRequest) -> JsonObject:
    page, keys = lists.read_page(request.params), request.params.strings("lookup_keys")
    request.params.finish()
    if len(keys) > 1:
        raise invalid_parameter("lookup_keys", "The double filters by one lookup key at a time.")
    lookup = keys[0] if keys else None
    return lists.page_from_store(core, "price", page, "/v1/prices", lookup=lookup)


def _currency(params: Params) -> str:
    currency = params.require_string("currency").lower()
    if len(currency) != 3 or not currency.isascii() or not currency.isalpha():
        raise invalid_parameter("currency", f"Invalid currency: {currency}")
    return currency


def _recurring(core: Core, recurring: Params) -> JsonObject:
    interval = recurring.choice("interval", ("month",))
    count = recurring.integer("interval_count")
    if count not in (None, 1):
        raise invalid_parameter("recurring[interval_count]", "The double bills every month.")
    recurring.choice("usage_type", ("metered",))
    meter = core.require("billing.meter", recurring.require_string("meter"), param="recurring[meter]")
    if meter["status"] != "active":
        raise conflict("A deactivated meter cannot be attached to a price.", param="recurring[meter]")
    return {
        "interval": interval,
        "interval_count": 1,
        "meter": meter["id"],
        "trial_period_days": None,
        "usage_type": "metered",
    }


def _product(core: Core, params: Params) -> str:
    given = params.string("product")
    if given:
        return str(core.require("product", given, param="product")["id"])
    data = params.mapping("product_data")
    if not params.has("product_data"):
        raise missing_parameter("product")
    name, unit_label = data.require_string("name"), data.string("unit_label", max_length=12)
    product = products.make(core, name, data.metadata(), unit_label=unit_label)
    core.store.insert(product)
    return str(product["id"])


def _amount(params: Params, name: str) -> JsonObject:
    """`name` and `name_decimal`, of which at most one may be given; None where neither is."""
    whole, decimal = params.integer(name), params.decimal(f"{name}_decimal")
    if whole is not None and decimal is not None:
        both = f"{params.name(name)} and {params.name(name)}_decimal"
        raise invalid_parameter(params.name(name), f"Only one of {both} can be given.")
    if whole is not None and whole < 0:
        raise invalid_parameter(params.name(name), f"{params.name(name)} must not be negative.")
    value = Decimal(whole) if whole is not None else decimal
    if value is None:
        return {name: None, f"{name}_decimal": None}
    is_whole = value == value.to_integral_value()
    text = f"{value:f}"
    plain = text.rstrip("0").rstrip(".") if "." in text else text
    return {name: int(value) if is_whole else None, f"{name}_decimal": plain}


def _per_unit(params: Params) -> JsonObject:
    body = _amount(params, "unit_amount")
    if body["unit_amount_decimal"] is None:
        raise missing_parameter("unit_amount")
    rule = params.mapping("transform_quantity")
    if params.has("transform_quantity"):
        divide_by = rule.require_integer("divide_by")
        if divide_by < 1:
            raise invalid_parameter("transform_quantity[divide_by]", "divide_by must be positive.")
        rounding = rule.choice("round", ("up", "down"))
        body["transform_quantity"] = {"divide_by": divide_by, "round": rounding}
    return body


def _tiered(params: Params) -> JsonObject:
    mode = params.choice("tiers_mode", ("graduated", "volume"))
    if params.has("transform_quantity"):
        raise invalid_parameter("transform_quantity", "transform_quantity cannot be combined with tiers.")
    tiers = [_tier(tier) for tier in params.items("tiers")]
    if not tiers:
        raise missing_parameter("tiers")
    bounds = [tier["up_to"] for tier in tiers]
    rising = all(low is not None and (high is None or low < high) for low, high in pairwise(bounds))
    if bounds[-1] is not None or not rising:
        raise invalid_parameter("tiers", "up_to must rise from tier to tier and end with inf.")
    return {"tiers": tiers, "tiers_mode": mode}


def _tier(params: Params) -> JsonObject:
    tier = _amount(params, "flat_amount") | _amount(params, "unit_amount")
    if tier["flat_amount_decimal"] is None and tier["unit_amount_decimal"] is None:
        raise missing_parameter(params.name("unit_amount"))
    if params.string("up_to") == "inf":
        return tier | {"up_to": None}
    up_to = params.require_integer("up_to")
    if up_to < 1:
        raise invalid_parameter(params.name("up_to"), "up_to must be positive.")
    return tier | {"up_to": up_to}
