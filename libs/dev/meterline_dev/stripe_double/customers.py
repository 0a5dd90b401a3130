"""Customers: create, retrieve, list. A customer lives on the clock that it was created with."""

from . import lists
from .core import Core
from .ids import new_id
from .request import ApiRequest
from .store import JsonObject


def create(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    test_clock = params.string("test_clock")
    created = core.now(test_clock)
    body: JsonObject = {
        "id": new_id("cus", 14),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": created,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": params.string("description"),
        "discount": None,
        "email": params.string("email", max_length=512),
        "invoice_prefix": new_id("", 8).removeprefix("_").upper(),
        "livemode": False,
        "metadata": params.metadata(),
        "name": params.string("name", max_length=256),
        "next_invoice_sequence": 1,
        "phone": params.string("phone", max_length=20),
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": test_clock,
    }
    params.finish()
    core.store.insert(body)
    return body


def retrieve(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require("customer", request.ids["id"])


def list_(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    page, created = lists.read_page(params), lists.read_created(params)
    email, test_clock = params.string("email"), params.string("test_clock")
    found = lists.page_from_store(
        core, "customer", page, "/v1/customers", created=created, lookup=email, test_clock=test_clock
    )
    params.finish()
    return found
