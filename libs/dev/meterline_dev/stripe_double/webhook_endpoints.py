"""Webhook endpoints: where events are sent. The signing secret is shown once, on creation."""

from urllib.parse import urlsplit

from . import lists
from .core import Core
from .errors import invalid_parameter, missing_parameter
from .events import API_VERSION
from .ids import new_id
from .rendering import without
from .request import ApiRequest
from .store import JsonObject

KIND = "webhook_endpoint"


def create(core: Core, request: ApiRequest) -> JsonObject:
    params = request.params
    url, enabled = params.require_string("url"), params.strings("enabled_events")
    description, metadata = params.string("description"), params.metadata()
    params.finish()
    if not _is_http(url):
        raise invalid_parameter("url", "Invalid URL: it must begin with http:// or https://", "url_invalid")
    if not enabled:
        raise missing_parameter("enabled_events")
    body: JsonObject = {
        "id": new_id("we"),
        "object": KIND,
        "api_version": API_VERSION,
        "application": None,
        "created": core.now(None),
        "description": description,
        "enabled_events": enabled,
        "livemode": False,
        "metadata": metadata,
        "secret": new_id("whsec", 32),
        "status": "enabled",
        "url": url,
    }
    core.store.insert(body)
    return body


def retrieve(core: Core, request: ApiRequest) -> JsonObject:
    request.params.finish()
    return core.require(KIND, request.ids["id"])


def list_(core: Core, request: ApiRequest) -> JsonObject:
    page = lists.read_page(request.params)
    request.params.finish()
    return lists.page_from_store(core, KIND, page, "/v1/webhook_endpoints")


def delete(core: Core, request: ApiRequest) -> JsonObject:
    """Also forgets what still waits for it."""
    request.params.finish()
    body = without(core.require(KIND, request.ids["id"]), "secret")
    core.store.delete(body["id"])
    core.store.execute("DELETE FROM deliveries WHERE endpoint = ? AND state = 'pending'", body["id"])
    return {"id": body["id"], "object": KIND, "deleted": True}


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
