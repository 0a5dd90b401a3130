"""Products, to which prices belong."""

from collections.abc import Mapping

from . import lists
from .core import Core
from .ids import new_id
from .request import ApiRequest
from .store import JsonObject


def create(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    name = params.require_string("name")
    description, unit_label = params.string("description"), params.string("unit_label", max_length=12)
    body = make(core, name, params.metadata(), description=description, unit_label=unit_label)
    params.finish()
    core.store.insert(body)
    return body


def make(
    core: Core,
    name: str,
    metadata: Mapping[str, str],
    *,
    description: str | None = None,
    unit_label: str | None = None,
) -> JsonObject:
    """A product object, not yet stored."""
    created = core.now(None)
    return {
        "id": new_id("prod", 14),
        "object": "product",
        "active": True,
        "created": created,
        "default_price": None,
        "description": description,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": dict(metadata),
        "name": name,
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": unit_label,
        "updated": created,
        "url": None,
    }


def retrieve(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require("product", request.ids["id"])


def list_(core: Core, request: ApiRequest) -> JsonObject:
    page = lists.read_page(request.params)
    request.params.finish()
    return lists.page_from_store(core, "product", page, "/v1/products")
