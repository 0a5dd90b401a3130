"""Subscriptions to metered monthly prices, in Stripe's flexible billing mode.

That mode makes no invoice when a subscription with nothing but metered items begins: the first one comes
when the first period ends.
"""

from . import lists
from .core import Core
from .errors import invalid_parameter, missing_parameter
from .ids import new_id
from .params import Params
from .periods import BOUNDARIES_KEY, add_months, next_period_end, parse_boundaries
from .rendering import without
from .request import ApiRequest
from .store import JsonObject

MAX_ITEMS = 20
URL = "/v1/subscriptions"


def create(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    customer = core.require("customer", params.require_string("customer"), param="customer")
    now = core.now(customer["test_clock"])
    metadata = params.metadata()
    anchor, start = _anchor(params, now), _start(params, now)
    prices = _prices(core, params.items("items"))
    collection = _collection(params)
    params.finish()
    period = (start, next_period_end(anchor, _boundaries(metadata), now))
    body: JsonObject = {
        "id": new_id("sub"),
        "object": "subscription",
        "application": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": anchor,
        "billing_cycle_anchor_config": None,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_schedules": [],
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "created": now,
        "currency": prices[0]["currency"],
        "customer": customer["id"],
        "default_payment_method": None,
        "description": None,
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "latest_invoice": None,
        "livemode": False,
        "metadata": metadata,
        "start_date": start,
        "status": "active",
        "test_clock": customer["test_clock"],
        "trial_end": None,
        "trial_start": None,
    }
    body |= collection
    items = [_item(body["id"], price, period, now) for price in prices]
    url = f"/v1/subscription_items?subscription={body['id']}"
    body["items"] = lists.envelope(items, url, has_more=False)
    core.store.insert(body)
    core.wake_timeline.set()
    return body


def retrieve(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require("subscription", request.ids["id"])


def update(core: Core, request: ApiRequest) -> JsonObject:
    """Metadata only: a key set to the empty string is removed. The running period keeps its end."""
    body = core.require("subscription", request.ids["id"])
    merged = body["metadata"] | request.params.metadata()
    request.params.finish()
    body["metadata"] = {name: value for name, value in merged.items() if value}
    _boundaries(body["metadata"])
    core.store.update(body)
    return body


def list_(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    page, created = lists.read_page(params), lists.read_created(params)
    customer, status = params.string("customer"), params.string("status")
    test_clock = params.string("test_clock")
    params.finish()
    return lists.page_from_store(
        core,
        "subscription",
        page,
        URL,
        created=created,
        customer=customer,
        status=None if status == "all" else status,
        test_clock=test_clock,
    )


def period_end_after(body: JsonObject, instant: int) -> int:
    """When the period that begins at `instant` ends."""
    return next_period_end(body["billing_cycle_anchor"], _boundaries(body["metadata"]), instant)


def _boundaries(metadata: dict[str, str]) -> tuple[int, ...]:
    try:
        return parse_boundaries(metadata.get(BOUNDARIES_KEY, ""))
    except ValueError as error:
        message = f"{BOUNDARIES_KEY} must be rising unix seconds, separated by commas."
        raise invalid_parameter(f"metadata[{BOUNDARIES_KEY}]", message) from error


def _anchor(params: Params, now: int) -> int:
    anchor = params.integer("billing_cycle_anchor")
    if anchor is None:
        return now
    latest = add_months(now, 1)
    if not now <= anchor <= latest:
        message = f"billing_cycle_anchor must be between now ({now}) and the next natural date ({latest})."
        raise invalid_parameter("billing_cycle_anchor", message)
    return anchor


def _start(params: Params, now: int) -> int:
    start = params.integer("backdate_start_date")
    if start is not None and start > now:
        raise invalid_parameter("backdate_start_date", "backdate_start_date must be in the past.")
    return now if start is None else start


def _collection(params: Params) -> JsonObject:
    methods = ("charge_automatically", "send_invoice")
    method = params.choice("collection_method", methods, default=methods[0])
    days = params.integer("days_until_due")
    if method == "send_invoice" and days is None:
        raise missing_parameter("days_until_due")
    if method != "send_invoice" and days is not None:
        raise invalid_parameter("days_until_due", "days_until_due is for send_invoice only.")
    return {"collection_method": method, "days_until_due": days}


def _prices(core: Core, items: list[Params]) -> list[JsonObject]:
    """The prices of the items: at least one, no two alike, all in one currency."""
    if not 1 <= len(items) <= MAX_ITEMS:
        raise invalid_parameter("items", f"A subscription has 1 to {MAX_ITEMS} items.")
    ids = [item.require_string("price") for item in items]
    prices = [
        core.require("price", price, param=item.name("price")) for price, item in zip(ids, items, strict=True)
    ]
    if len(set(ids)) < len(ids):
        raise invalid_parameter("items", "Two items of a subscription cannot have the same price.")
    if len({price["currency"] for price in prices}) > 1:
        raise invalid_parameter("items", "All items of a subscription must be in one currency.")
    return prices


def _item(subscription: str, price: JsonObject, period: tuple[int, int], now: int) -> JsonObject:
    return {
        "id": new_id("si", 14),
        "object": "subscription_item",
        "created": now,
        "current_period_end": period[1],
        "current_period_start": period[0],
        "discounts": [],
        "metadata": {},
        "plan": _plan(price),
        "price": without(price, "tiers"),
        "subscription": subscription,
        "tax_rates": [],
    }


def _plan(price: JsonObject) -> JsonObject:
    """The older view of a price, which items still carry."""
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": price["recurring"]["interval"],
        "interval_count": price["recurring"]["interval_count"],
        "livemode": False,
        "metadata": price["metadata"],
        "meter": price["recurring"]["meter"],
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": price["transform_quantity"],
        "trial_period_days": None,
        "usage_type": "metered",
    }
