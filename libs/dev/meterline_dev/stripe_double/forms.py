"""Form bodies and query strings with bracket nesting, as Stripe's libraries send them.

`items[0][price]=p&metadata[k]=v` becomes `{"items": {"0": {"price": "p"}}, "metadata": {"k": "v"}}`.
Lists stay mappings with numeric keys until `Params.items` reads them, because only the reader knows
whether `metadata[1]` is a list entry or a key that happens to be a number.
"""

import re
from typing import TypeAlias
from urllib.parse import parse_qsl

from .errors import ApiError, invalid_parameter

Form: TypeAlias = "dict[str, str | Form]"

MAX_FIELDS = 2_000
MAX_DEPTH = 8
_KEY = re.compile(r"(?P<name>[^\[\]]+)(?P<path>(?:\[[^\[\]]*\])*)")
_PART = re.compile(r"\[([^\[\]]*)\]")


def parse_form(text: str) -> Form:
    """The nested mapping of one body or query string; `ApiError` 400 if it cannot be one."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise ApiError(f"The form has more than {MAX_FIELDS} fields.") from error
    form: Form = {}
    for key, value in pairs:
        _insert(form, key, value)
    return form


def _insert(form: Form, key: str, value: str) -> None:
    path = _split(key)
    node = form
    for part in path[:-1]:
        child = node.setdefault(part or str(len(node)), {})
        if isinstance(child, str):
            raise invalid_parameter(key, f"{key} is given both as a value and as a hash.")
        node = child
    last = path[-1] or str(len(node))
    if isinstance(node.get(last), dict):
        raise invalid_parameter(key, f"{key} is given both as a value and as a hash.")
    node[last] = value


def _split(key: str) -> list[str]:
    match = _KEY.fullmatch(key)
    if match is None:
        raise invalid_parameter(key, f"Malformed parameter name: {key}")
    path = [match["name"], *_PART.findall(match["path"])]
    if len(path) > MAX_DEPTH:
        raise invalid_parameter(key, f"{key} is nested deeper than {MAX_DEPTH} levels.")
    return path
