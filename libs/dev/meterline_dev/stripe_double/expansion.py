"""`expand[]`: references by id become the objects they name, and hidden fields appear."""

from collections.abc import Callable, Sequence
from typing import Any

from .core import Core
from .errors import invalid_parameter
from .store import JsonObject

MAX_DEPTH = 4
Render = Callable[[Core, JsonObject], JsonObject]


def expand(core: Core, body: JsonObject, paths: Sequence[str], render: Render) -> JsonObject:
    """`body` with each dotted path expanded: `latest_invoice`, `data.items.data.price.product`."""
    for path in paths:
        parts = path.split(".")
        if len(parts) > MAX_DEPTH + 1:
            raise invalid_parameter("expand", f"expand reaches at most {MAX_DEPTH} levels: {path}")
        _expand(core, body, parts, path, render)
    return body


def _expand(core: Core, node: Any, parts: Sequence[str], path: str, render: Render) -> None:
    if not parts:
        return
    if isinstance(node, list):
        for entry in node:
            _expand(core, entry, parts, path, render)
        return
    name, rest = parts[0], parts[1:]
    if not isinstance(node, dict) or name not in _expandable(node):
        raise invalid_parameter("expand", f"This property cannot be expanded ({path}).")
    value = node.get(name)
    if isinstance(value, str):
        found = core.store.find_any(value)
        if found is None:
            raise invalid_parameter("expand", f"This property cannot be expanded ({path}).")
        node[name] = value = render(core, found)
    elif name == "tiers" and value is None:
        stored = core.store.find("price", node["id"])
        node["tiers"] = stored["tiers"] if stored else None
    if value is not None:
        _expand(core, value, rest, path, render)


def _expandable(node: JsonObject) -> set[str]:
    return {*node, "tiers"} if node.get("object") == "price" else set(node)
