"""Which handler answers which call. A handler reads a request and returns the object to answer."""

from collections.abc import Callable
from typing import TypeAlias

from . import (
    clocks,
    customers,
    events,
    invoices,
    meter_events,
    meters,
    prices,
    products,
    subscriptions,
    summaries,
    webhook_endpoints,
)
from .core import Core
from .request import ApiRequest
from .store import JsonObject

Handler: TypeAlias = Callable[[Core, ApiRequest], JsonObject]

# (method, path, handler). The hot call comes first: routes are tried in order.
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/v1/billing/meter_events", meter_events.create),
    ("POST", "/v1/billing/meter_event_adjustments", meter_events.adjust),
    ("POST", "/v1/billing/meters", meters.create),
    ("GET", "/v1/billing/meters", meters.list_),
    ("GET", "/v1/billing/meters/{id}", meters.retrieve),
    ("POST", "/v1/billing/meters/{id}/deactivate", meters.deactivate),
    ("POST", "/v1/billing/meters/{id}/reactivate", meters.reactivate),
    ("GET", "/v1/billing/meters/{id}/event_summaries", summaries.list_),
    ("POST", "/v1/customers", customers.create),
    ("GET", "/v1/customers", customers.list_),
    ("GET", "/v1/customers/{id}", customers.retrieve),
    ("POST", "/v1/products", products.create),
    ("GET", "/v1/products", products.list_),
    ("GET", "/v1/products/{id}", products.retrieve),
    ("POST", "/v1/prices", prices.create),
    ("GET", "/v1/prices", prices.list_),
    ("GET", "/v1/prices/{id}", prices.retrieve),
    ("POST", "/v1/subscriptions", subscriptions.create),
    ("GET", "/v1/subscriptions", subscriptions.list_),
    ("GET", "/v1/subscriptions/{id}", subscriptions.retrieve),
    ("POST", "/v1/subscriptions/{id}", subscriptions.update),
    ("POST", "/v1/invoices/create_preview", invoices.preview),
    ("GET", "/v1/invoices", invoices.list_),
    ("GET", "/v1/invoices/{id}", invoices.retrieve),
    ("GET", "/v1/invoices/{id}/lines", invoices.list_lines),
    ("POST", "/v1/invoices/{id}/finalize", invoices.finalize),
    ("POST", "/v1/test_helpers/test_clocks", clocks.create),
    ("GET", "/v1/test_helpers/test_clocks", clocks.list_),
    ("GET", "/v1/test_helpers/test_clocks/{id}", clocks.retrieve),
    ("POST", "/v1/test_helpers/test_clocks/{id}/advance", clocks.advance),
    ("POST", "/v1/webhook_endpoints", webhook_endpoints.create),
    ("GET", "/v1/webhook_endpoints", webhook_endpoints.list_),
    ("GET", "/v1/webhook_endpoints/{id}", webhook_endpoints.retrieve),
    ("DELETE", "/v1/webhook_endpoints/{id}", webhook_endpoints.delete),
    ("GET", "/v1/events", events.list_),
    ("GET", "/v1/events/{id}", events.retrieve),
    ("GET", "/v2/core/events/{id}", events.retrieve_thin),
)
