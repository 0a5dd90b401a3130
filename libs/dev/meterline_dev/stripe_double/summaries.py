"""Event summaries: what a customer's events on one meter add up to, whole or by UTC hour or day.

Windows without events are left out, and a range without events is an empty list.
"""

from hashlib import sha256

from . import lists, meters, usage
from .core import Core
from .errors import invalid_parameter
from .request import ApiRequest
from .store import JsonObject

_WINDOWS = {"hour": 3_600, "day": 86_400}
MINUTE = 60


def list_(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    meter = core.require(meters.KIND, request.ids["id"])
    customer = core.require("customer", params.require_string("customer"), param="customer")
    start, end = params.require_integer("start_time"), params.require_integer("end_time")
    grouping = params.string("value_grouping_window")
    page = lists.read_page(params)
    params.finish()
    _check_range(start, end, grouping)
    width = _WINDOWS[grouping] if grouping else end - start
    values = usage.windows(core, meter, customer["id"], start, end, width)
    data = [_summary(meter, customer, at, at + width, value) for at, value in reversed(values)]
    return lists.page_of(data, page, f"{meters.URL}/{meter['id']}/event_summaries")


def _check_range(start: int, end: int, grouping: str | None) -> None:
    if grouping is not None and grouping not in _WINDOWS:
        raise invalid_parameter("value_grouping_window", "value_grouping_window must be hour or day.")
    unit = _WINDOWS[grouping] if grouping else MINUTE
    for name, value in (("start_time", start), ("end_time", end)):
        if value % unit:
            raise invalid_parameter(name, f"{name} must be aligned with {grouping or 'minute'} boundaries.")
    if start >= end:
        raise invalid_parameter("end_time", "end_time must be later than start_time.")


def _summary(meter: JsonObject, customer: JsonObject, start: int, end: int, value: int) -> JsonObject:
    digest = sha256(f"{meter['id']}|{customer['id']}|{start}|{end}".encode()).hexdigest()
    return {
        "id": f"mtrusg_test_{digest[:24]}",
        "object": "billing.meter_event_summary",
        # A float because Stripe's is one: therefore summaries must not be billed from.
        "aggregated_value": float(value),
        "end_time": end,
        "livemode": False,
        "meter": meter["id"],
        "start_time": start,
    }
