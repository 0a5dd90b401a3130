"""Meter events and their cancellation: what is accepted, what is refused at once, what is refused later.

Everything is checked before the answer except that the customer exists: like Stripe, the double accepts an
event of a customer it does not know, and reports it afterwards (see `reports`).
"""

import json
import re

from . import meters, usage
from .core import Core
from .errors import ApiError, conflict, duplicate_event, invalid_parameter
from .ids import new_id
from .request import ApiRequest
from .store import JsonObject

MAX_IDENTIFIER = 100
MAX_VALUE_DIGITS = 15
MAX_AGE = 35 * 86_400
MAX_AHEAD = 5 * 60
_WHOLE = re.compile(r"-?\d+", re.ASCII)


def create(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    event_name = params.require_string("event_name", max_length=meters.MAX_EVENT_NAME)
    identifier = params.string("identifier", max_length=MAX_IDENTIFIER) or new_id("mevt")
    payload, timestamp = params.string_map("payload"), params.integer("timestamp")
    params.finish()
    meter = _active_meter(core, event_name)
    customer_id, value = _customer_id(meter, payload), _value(meter, payload)
    customer = core.store.find("customer", customer_id)
    now = core.now(customer["test_clock"] if customer else None)
    at = now if timestamp is None else _checked(timestamp, now)
    if usage.is_remembered(core, identifier):
        core.counters["duplicates_refused"] += 1
        raise duplicate_event(identifier)
    event = usage.MeterEvent(
        identifier=identifier,
        event_name=event_name,
        meter=meter["id"],
        customer=customer_id,
        value=value,
        at=at,
        created=now,
        received_ms=core.clock.now_ms(),
        payload=json.dumps(payload),
        idempotency_key=request.idempotency_key,
        status="accepted" if customer else "rejected",
        error_code=None if customer else "meter_event_customer_not_found",
    )
    usage.insert(core, event)
    if customer is None:
        core.wake_reports.set()
    return {
        "object": "billing.meter_event",
        "created": now,
        "event_name": event_name,
        "identifier": identifier,
        "livemode": False,
        "payload": payload,
        "timestamp": at,
    }


def adjust(core: Core, request: ApiRequest) -> JsonObject:
    """Cancel one event within 24 hours of its receipt. What a finalised invoice billed stays billed."""
    params = request.params
    event_name = params.require_string("event_name", max_length=meters.MAX_EVENT_NAME)
    params.choice("type", ("cancel",))
    identifier = params.mapping("cancel").require_string("identifier", max_length=MAX_IDENTIFIER)
    params.finish()
    found = usage.latest(core, event_name, identifier)
    if found is None or found[2] == "rejected":
        raise conflict(
            f"No '{event_name}' event has the identifier {identifier}.",
            param="cancel[identifier]",
            code="resource_missing",
        )
    row, received_ms, status = found
    if status == "canceled":
        raise conflict(f"The event {identifier} is canceled already.", param="cancel[identifier]")
    if core.clock.now_ms() - received_ms > usage.IDENTIFIER_MEMORY_MS:
        raise conflict("Events can be canceled within 24 hours of their receipt.", param="cancel[identifier]")
    usage.cancel(core, row)
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": event_name,
        "livemode": False,
        "status": "pending",
        "type": "cancel",
    }


def _active_meter(core: Core, event_name: str) -> JsonObject:
    meter = meters.by_event_name(core, event_name)
    if meter is None:
        message = f"No active meter has the event name '{event_name}'."
        raise ApiError(message, code="no_meter", param="event_name")
    if meter["status"] != "active":
        message = f"The meter of '{event_name}' is deactivated."
        raise ApiError(message, code="archived_meter", param="event_name")
    return meter


def _customer_id(meter: JsonObject, payload: dict[str, str]) -> str:
    key = meter["customer_mapping"]["event_payload_key"]
    customer = payload.get(key)
    if not customer:
        message = f"The payload names no customer under '{key}'."
        raise invalid_parameter(f"payload[{key}]", message, "meter_event_no_customer_defined")
    return customer


def _value(meter: JsonObject, payload: dict[str, str]) -> int:
    """A whole number of at most 15 digits; a counting meter needs none."""
    key = meter["value_settings"]["event_payload_key"]
    text = payload.get(key)
    if text is None and meter["default_aggregation"]["formula"] == "count":
        return 1
    if text is None or not _WHOLE.fullmatch(text):
        message = f"The payload's '{key}' must be a whole number."
        raise invalid_parameter(f"payload[{key}]", message, "meter_event_invalid_value")
    if len(text.lstrip("-0")) > MAX_VALUE_DIGITS:
        message = f"The payload's '{key}' has more than {MAX_VALUE_DIGITS} digits."
        raise invalid_parameter(f"payload[{key}]", message, "meter_event_value_too_many_digits")
    return int(text)


def _checked(timestamp: int, now: int) -> int:
    """A timestamp within 35 days back and 5 minutes ahead of `now`, both included."""
    if timestamp < now - MAX_AGE:
        message = f"The timestamp is more than 35 days in the past; the earliest is {now - MAX_AGE}."
        raise invalid_parameter("timestamp", message, "timestamp_too_far_in_past")
    if timestamp > now + MAX_AHEAD:
        message = f"The timestamp is more than 5 minutes in the future; the latest is {now + MAX_AHEAD}."
        raise invalid_parameter("timestamp", message, "timestamp_in_future")
    return timestamp
