"""How stored objects are shown: what Stripe leaves out by default, and what is computed on reading."""

from . import invoice_lines
from .core import Core
from .store import JsonObject


def render(core: Core, body: JsonObject, *, created: bool = False) -> JsonObject:
    """The object, or list of objects, as an API answer shows it. May reuse and change `body`.

    `created` says that this call made it: the only time when a signing secret is shown.
    """
    match body["object"]:
        case "list":
            return body | {"data": [render(core, entry) for entry in body["data"]]}
        case "webhook_endpoint" if created:
            return body
        case "price":
            return without(body, "tiers")
        case "webhook_endpoint":
            return without(body, "secret")
        case "invoice":
            return invoice_lines.shown(core, body)
        case _:
            return body


def without(body: JsonObject, field: str) -> JsonObject:
    return {name: value for name, value in body.items() if name != field}
