"""Invoices: drafted when a period ends, finalised later, listed, previewed."""

from . import events, invoice_lines, lists
from .core import Core
from .errors import conflict, invalid_parameter
from .ids import new_id
from .request import ApiRequest
from .store import JsonObject

URL = "/v1/invoices"
STATUSES = ("draft", "open", "paid", "uncollectible", "void")


def retrieve(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require("invoice", request.ids["id"])


def list_(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    page, created = lists.read_page(params), lists.read_created(params)
    customer, subscription = params.string("customer"), params.string("subscription")
    status = params.choice("status", STATUSES) if params.has("status") else None
    params.finish()
    return lists.page_from_store(
        core,
        "invoice",
        page,
        URL,
        created=created,
        customer=customer,
        subscription=subscription,
        status=status,
    )


def list_lines(core: Core, request: ApiRequest) -> JsonObject:
    page = lists.read_page(request.params)
    request.params.finish()
    invoice = core.require("invoice", request.ids["id"])
    return lists.page_of(invoice_lines.lines_of(core, invoice), page, f"{URL}/{invoice['id']}/lines")


def finalize(core: Core, request: ApiRequest) -> JsonObject:
    request.params.boolean("auto_advance", default=True)
    request.params.finish()
    invoice = core.require("invoice", request.ids["id"])
    if invoice["status"] != "draft":
        raise conflict("Only a draft invoice can be finalized; this one is not.", param="invoice")
    close(core, invoice, core.now(invoice["test_clock"]))
    return invoice


def preview(core: Core, request: ApiRequest) -> JsonObject:
    """What the running period of a subscription would cost if it ended now. Nothing is stored."""
    params = request.params
    subscription = core.require("subscription", params.require_string("subscription"), param="subscription")
    customer = params.string("customer")
    params.finish()
    if customer not in (None, subscription["customer"]):
        raise invalid_parameter("customer", "The subscription belongs to another customer.")
    now = core.now(subscription["test_clock"])
    return _new(core, subscription, now, reason="upcoming", prefix="upcoming_in")


def draft(core: Core, subscription: JsonObject, now: int) -> JsonObject:
    """Store the draft of the period that the subscription is at the end of, and announce it."""
    invoice = _new(core, subscription, now, reason="subscription_cycle", prefix="in")
    invoice["automatically_finalizes_at"] = now + core.settings.finalize_after
    core.store.insert(invoice)
    events.emit(core, "invoice.created", invoice_lines.shown(core, dict(invoice)), now)
    return invoice


def close(core: Core, invoice: JsonObject, now: int) -> None:
    """Finalise: count the usage once more, number the invoice, and let nothing change it any more."""
    lines = invoice_lines.lines_of(core, invoice)
    invoice |= invoice_lines.totals(lines)
    paid = invoice["total"] == 0
    transitions = {"finalized_at": now, "paid_at": now if paid else None}
    invoice |= {
        "automatically_finalizes_at": None,
        "effective_at": now,
        "ending_balance": 0,
        "lines": lines,
        "number": _number(core, invoice["customer"]),
        "status": "paid" if paid else "open",
        "status_transitions": invoice["status_transitions"] | transitions,
    }
    core.store.update(invoice)
    events.emit(core, "invoice.finalized", invoice_lines.shown(core, dict(invoice)), now)


def _number(core: Core, customer_id: str) -> str:
    customer = core.require("customer", customer_id)
    sequence = customer["next_invoice_sequence"]
    core.store.update(customer | {"next_invoice_sequence": sequence + 1})
    return f"{customer['invoice_prefix']}-{sequence:04d}"


def _new(core: Core, subscription: JsonObject, now: int, *, reason: str, prefix: str) -> JsonObject:
    """A draft invoice object for the subscription's current period."""
    customer = core.require("customer", subscription["customer"])
    item = subscription["items"]["data"][0]
    details = {
        "metadata": subscription["metadata"],
        "subscription": subscription["id"],
        "subscription_proration_date": None,
    }
    return {
        "id": new_id(prefix),
        "object": "invoice",
        "amount_due": 0,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": 0,
        "amount_shipping": 0,
        "application": None,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None, "status": None},
        "automatically_finalizes_at": None,
        "billing_reason": reason,
        "collection_method": subscription["collection_method"],
        "created": now,
        "currency": subscription["currency"],
        "customer": customer["id"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "issuer": {"type": "self"},
        "livemode": False,
        "metadata": {},
        "number": None,
        "parent": {"quote_details": None, "subscription_details": details, "type": "subscription_details"},
        "payment_settings": {"default_mandate": None, "payment_method_options": None},
        "period_end": item["current_period_end"],
        "period_start": item["current_period_start"],
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "draft",
        "status_transitions": dict.fromkeys(
            ("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")
        ),
        "subtotal": 0,
        "test_clock": subscription["test_clock"],
        "total": 0,
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
    }
