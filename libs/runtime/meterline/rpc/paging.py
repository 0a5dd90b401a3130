"""Pages of a list: the token names the last row of a page by its sort key, so that pages stay quick at any
depth, and rows that come or go meanwhile neither repeat nor hide others."""

from __future__ import annotations

import base64
import json
from typing import Final

from meterline.errors import InvalidArgumentError

DEFAULT_SIZE: Final = 100
MAX_SIZE: Final = 1_000

Key = str | int

_INT8 = range(-(2**63), 2**63)


def size(asked: int, *, default: int = DEFAULT_SIZE, most: int = MAX_SIZE) -> int:
    """Rows of a page: `default` when none are asked for; more than `most` get `most`."""
    return min(asked or default, most)


def token(*key: Key) -> str:
    """The opaque token of the page after the row with this sort key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def key(token: str, *kinds: type[Key]) -> tuple[Key, ...] | None:
    """The sort key in `token`, of these kinds; None for the first page (an empty token).

    Raises InvalidArgumentError for anything that `token` did not make.
    """
    if not token:
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        fits = isinstance(parts, list) and len(parts) == len(kinds)
        if fits and all(_is(part, kind) for part, kind in zip(parts, kinds, strict=True)):
            return tuple(parts)
    except (ValueError, RecursionError):
        pass  # not ours; said below
    raise InvalidArgumentError("page_token", "must be the next_page_token of an earlier answer")


def _is(part: object, kind: type[Key]) -> bool:
    """Whether Postgres would take `part` as a value of this kind."""
    if type(part) is not kind:
        return False
    if isinstance(part, int):
        return part in _INT8
    assert isinstance(part, str)
    return "\0" not in part and not any("\ud800" <= letter <= "\udfff" for letter in part)
