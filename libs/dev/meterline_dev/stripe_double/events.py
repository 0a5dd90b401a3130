"""Events: stored, answered on request, and queued for the webhook endpoints that want them.

Two kinds, as Stripe has them: snapshot events of v1 carry the object; thin events of v2 carry a reference,
and are fetched for their data.
"""

import json
import time
from datetime import UTC, datetime

from . import lists
from .core import Core
from .ids import new_id
from .request import ApiRequest
from .store import JsonObject

API_VERSION = "2026-10-28.endive"
THIN = ("id", "object", "type", "livemode", "created", "context", "related_object", "reason")


def emit(core: Core, type_: str, snapshot: JsonObject, now: int) -> None:
    """Record a v1 event about `snapshot` at `now` (unix seconds on its clock), and queue it."""
    event = {
        "id": new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": now,
        "data": {"object": snapshot},
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": None, "idempotency_key": None},
        "type": type_,
    }
    event["pending_webhooks"] = _queue(core, event, event, wildcard=True)
    core.store.insert(event)


def emit_thin(core: Core, type_: str, related: JsonObject, data: JsonObject, now: int) -> None:
    """Record a v2 event about an object, with the data that a fetch will show, and queue its thin form."""
    event = {
        "id": new_id("evt_test"),
        "object": "v2.core.event",
        "changes": None,
        "context": None,
        "created": timestamp(now),
        "data": data,
        "livemode": False,
        "reason": None,
        "related_object": related,
        "type": type_,
    }
    _queue(core, event, {name: event[name] for name in THIN}, wildcard=False)
    core.store.insert(event, created=now)


def timestamp(seconds: int) -> str:
    """Unix seconds as the RFC 3339 text of v2 objects."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def retrieve(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require("event", request.ids["id"])


def retrieve_thin(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require("v2.core.event", request.ids["id"])


def list_(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    page, created, type_ = lists.read_page(params), lists.read_created(params), params.string("type")
    params.finish()
    return lists.page_from_store(core, "event", page, "/v1/events", created=created, lookup=type_)


def _queue(core: Core, event: JsonObject, payload: JsonObject, *, wildcard: bool) -> int:
    """Queue a delivery for each endpoint that asked for this type; returns how many."""
    wanted = {event["type"], "*"} if wildcard else {event["type"]}
    endpoints = [
        endpoint
        for endpoint in core.store.with_status("webhook_endpoint", "enabled")
        if wanted & set(endpoint["enabled_events"])
    ]
    if not endpoints:
        return 0
    waiting = core.store.row("SELECT count(*) FROM deliveries WHERE state = 'pending'")[0]
    state = "pending" if waiting < core.settings.webhook_backlog else "dropped"
    for endpoint in endpoints:
        core.store.execute(
            "INSERT INTO deliveries (endpoint, event, payload, next_ms, state) VALUES (?, ?, ?, ?, ?)",
            endpoint["id"],
            event["id"],
            json.dumps(payload, separators=(",", ":")),
            time.time_ns() // 1_000_000,
            state,
        )
    core.wake_deliveries.set()
    return len(endpoints)
