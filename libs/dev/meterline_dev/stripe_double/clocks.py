"""Test clocks: frozen time for the customers created on them, moved forward by `advance`.

Advancing is answered at once with `advancing`; the timeline then does everything that falls due on the
way, in order, and ends with `ready`.
"""

from . import lists
from .core import Core
from .errors import conflict, invalid_parameter
from .ids import new_id
from .periods import add_months
from .request import ApiRequest
from .store import JsonObject

KIND = "test_helpers.test_clock"
URL = "/v1/test_helpers/test_clocks"
MAX_MONTHS, MAX_MONTHS_EMPTY = 2, 24
_LIFETIME = 30 * 86_400


def create(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    frozen_time, name = params.require_integer("frozen_time"), params.string("name", max_length=300)
    params.finish()
    if not 0 <= frozen_time < 1 << 35:
        raise invalid_parameter("frozen_time", "frozen_time must be unix seconds.")
    now = core.now(None)
    body: JsonObject = {
        "id": new_id("clock"),
        "object": KIND,
        "created": now,
        "deletes_after": now + _LIFETIME,
        "frozen_time": frozen_time,
        "livemode": False,
        "name": name,
        "status": "ready",
        "status_details": {},
    }
    core.store.insert(body)
    return body


def retrieve(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require(KIND, request.ids["id"])


def list_(core: Core, request: ApiRequest) -> JsonObject:
    page = lists.read_page(request.params)
    request.params.finish()
    return lists.page_from_store(core, KIND, page, URL)


def advance(core: Core, request: ApiRequest) -> JsonObject:
    """Begin to move a clock forward: at most two months at a time if it has subscriptions."""
    target = request.params.require_integer("frozen_time")
    request.params.finish()
    clock = core.require(KIND, request.ids["id"])
    if clock["status"] != "ready":
        raise conflict("This test clock is still advancing.", code="test_clock_advancing")
    if target <= clock["frozen_time"]:
        raise invalid_parameter("frozen_time", "frozen_time must be later than the clock's current time.")
    billed = core.store.next_due(clock["id"]) is not None
    latest = add_months(clock["frozen_time"], MAX_MONTHS if billed else MAX_MONTHS_EMPTY)
    if target > latest:
        raise invalid_parameter("frozen_time", f"This clock can be advanced to {latest} at most for now.")
    clock |= {"status": "advancing", "status_details": {"advancing": {"target_frozen_time": target}}}
    core.store.update(clock)
    core.wake_timeline.set()
    return clock
