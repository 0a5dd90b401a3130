"""An invoice's lines and totals: usage of the period, rated by the price of each item.

A draft is computed whenever it is looked at, so that usage which arrives late still counts. Finalising
stores the lines; from then on nothing changes them.
"""

from collections.abc import Sequence
from hashlib import sha256

from . import lists, rating, usage
from .core import Core
from .store import JsonObject

EMBEDDED_LINES = 10
_TOTALS = (
    "subtotal",
    "subtotal_excluding_tax",
    "total",
    "total_excluding_tax",
    "amount_due",
    "amount_remaining",
)


def shown(core: Core, invoice: JsonObject) -> JsonObject:
    """The invoice with its first lines; totals are up to date if it is a draft."""
    lines = lines_of(core, invoice)
    if invoice["status"] == "draft":
        invoice |= totals(lines)
    url = f"/v1/invoices/{invoice['id']}/lines"
    embedded = lists.envelope(lines[:EMBEDDED_LINES], url, has_more=len(lines) > EMBEDDED_LINES)
    return invoice | {"lines": embedded}


def lines_of(core: Core, invoice: JsonObject) -> list[JsonObject]:
    """All lines: the stored ones once the invoice is finalised, else computed now."""
    if invoice["status"] != "draft":
        stored: list[JsonObject] = invoice["lines"]
        return stored
    subscription = core.require("subscription", invoice["parent"]["subscription_details"]["subscription"])
    items: list[JsonObject] = subscription["items"]["data"]
    return [_line(core, invoice, item) for item in items]


def totals(lines: Sequence[JsonObject]) -> JsonObject:
    """The sum of the rounded lines, under the names by which an invoice states it."""
    total = sum(line["amount"] for line in lines)
    return dict.fromkeys(_TOTALS, total)


def _line(core: Core, invoice: JsonObject, item: JsonObject) -> JsonObject:
    price = core.require("price", item["price"]["id"])
    meter = core.require("billing.meter", price["recurring"]["meter"])
    start, end = invoice["period_start"], invoice["period_end"]
    used = usage.aggregate(core, meter, invoice["customer"], start, end)
    # A period whose corrections exceed its usage is billed as zero, never as a credit.
    quantity = max(0, used or 0)
    amount = rating.amount(price, quantity)
    product = core.require("product", price["product"])
    return {
        # Stable while the invoice is a draft, though its lines are computed at each read.
        "id": f"il_{_digest(invoice['id'], item['id'])}",
        "object": "line_item",
        "amount": amount,
        "currency": price["currency"],
        "description": f"{quantity} x {product['name']}",
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": False,
        "metadata": {},
        "parent": _parent(item),
        "period": {"end": end, "start": start},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "subscription": item["subscription"],
        "subtotal": amount,
        "taxes": [],
    }


def _parent(item: JsonObject) -> JsonObject:
    details = {
        "invoice_item": None,
        "proration": False,
        "proration_details": None,
        "subscription": item["subscription"],
        "subscription_item": item["id"],
    }
    return {
        "invoice_item_details": None,
        "subscription_item_details": details,
        "type": "subscription_item_details",
    }


def _digest(*parts: str) -> str:
    return sha256("|".join(parts).encode()).hexdigest()[:24]
