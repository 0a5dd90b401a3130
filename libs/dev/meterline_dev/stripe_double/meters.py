"""Billing meters: how events named `event_name` add up for a customer."""

from . import lists
from .core import Core
from .errors import conflict
from .ids import new_id
from .params import Params
from .request import ApiRequest
from .store import JsonObject

KIND = "billing.meter"
URL = "/v1/billing/meters"
MAX_EVENT_NAME = 100


def create(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    event_name = params.require_string("event_name", max_length=MAX_EVENT_NAME)
    mapping, values = params.mapping("customer_mapping"), params.mapping("value_settings")
    now = core.now(None)
    body: JsonObject = {
        "id": new_id("mtr_test"),
        "object": KIND,
        "created": now,
        "customer_mapping": {
            "event_payload_key": _payload_key(mapping, "stripe_customer_id"),
            "type": mapping.choice("type", ("by_id",), default="by_id"),
        },
        "default_aggregation": {
            "formula": params.mapping("default_aggregation").choice("formula", ("sum", "count", "last"))
        },
        "display_name": params.require_string("display_name", max_length=250),
        "event_name": event_name,
        "event_time_window": None,
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": now,
        "value_settings": {"event_payload_key": _payload_key(values, "value")},
    }
    params.finish()
    _require_free(core, event_name)
    core.store.insert(body)
    return body


def retrieve(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require(KIND, request.ids["id"])


def list_(core: Core, request: ApiRequest) -> JsonObject:
    page, status = lists.read_page(request.params), request.params.string("status")
    request.params.finish()
    return lists.page_from_store(core, KIND, page, URL, status=status)


def deactivate(core: Core, request: ApiRequest) -> JsonObject:
    return _switch(core, request, "inactive")


def reactivate(core: Core, request: ApiRequest) -> JsonObject:
    return _switch(core, request, "active")


def _switch(core: Core, request: ApiRequest, status: str) -> JsonObject:
    request.params.finish()
    meter = core.require(KIND, request.ids["id"])
    if meter["status"] == status:
        raise conflict(f"This meter is already {status}.", param="id")
    if status == "active":
        _require_free(core, meter["event_name"])
    now = core.now(None)
    meter |= {"status": status, "updated": now}
    meter["status_transitions"] = {"deactivated_at": now if status == "inactive" else None}
    core.store.update(meter)
    return meter


def by_event_name(core: Core, event_name: str) -> JsonObject | None:
    """The active meter of this event name, or else the last one that had it."""
    found = core.store.bodies(
        "SELECT body FROM objects WHERE kind = ? AND lookup = ?"
        " ORDER BY status = 'active' DESC, seq DESC LIMIT 1",
        KIND,
        event_name,
    )
    return found[0] if found else None


def _require_free(core: Core, event_name: str) -> None:
    holder = by_event_name(core, event_name)
    if holder is not None and holder["status"] == "active":
        message = f"An active meter with the event name '{event_name}' exists already."
        raise conflict(message, param="event_name")


def _payload_key(params: Params, default: str) -> str:
    return params.string("event_payload_key", max_length=100) or default
