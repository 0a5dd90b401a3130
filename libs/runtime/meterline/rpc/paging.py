"""Pages of a list: the token names the last row of a page by its sort key, so that pages stay quick at any
depth, and rows that come or go meanwhile neither repeat nor hide others.

A token is no secret and grants nothing: it says where to continue, and each list reads only rows that its
caller may see. A caller with a made-up token, or one of another list, gets its own rows from somewhere in the
middle, or INVALID_ARGUMENT.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar, overload

from meterline.clock import to_datetime, to_us
from meterline.errors import InvalidArgumentError
from meterline.rpc.fields import EARLIEST, LATEST

DEFAULT_SIZE: Final = 100
MAX_SIZE: Final = 1_000
# The longest sort key has two texts of 256 characters, each of which JSON may write in 12.
MAX_TOKEN: Final = 16_384

Key = str | int | datetime | uuid.UUID
"""A part of a sort key."""

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
Kind = Callable[[Any], A]
"""What a part of a sort key must be: answers it as the query needs it, or raises ValueError."""


def text(part: object) -> str:
    """Text that Postgres can hold."""
    if type(part) is not str or "\0" in part or any("\ud800" <= letter <= "\udfff" for letter in part):
        raise ValueError
    return part


def int4(part: object) -> int:
    """An `integer` of Postgres."""
    return _within(part, 31)


def int8(part: object) -> int:
    """A `bigint` of Postgres."""
    return _within(part, 63)


def instant(part: object) -> datetime:
    """A time in which calendars can be computed; written as microseconds since the Unix epoch."""
    us = int8(part)
    if not _EARLIEST_US <= us < _LATEST_US:
        raise ValueError
    return to_datetime(us)


def identifier(part: object) -> uuid.UUID:
    """A UUID as `token` writes it, and no other text that `UUID` would take for one."""
    read = uuid.UUID(text(part))
    if str(read) != part:
        raise ValueError
    return read


def size(asked: int, *, default: int = DEFAULT_SIZE, most: int = MAX_SIZE) -> int:
    """Rows of a page: `default` when none are asked for; more than `most` get `most`."""
    return min(asked or default, most)


def token(*key: Key) -> str:
    """The opaque token of the page after the row with this sort key."""
    parts = [_written(part) for part in key]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@overload
def key(token: str, first: Kind[A], /, *, field: str = ...) -> tuple[A] | None: ...


@overload
def key(token: str, first: Kind[A], second: Kind[B], /, *, field: str = ...) -> tuple[A, B] | None: ...


@overload
def key(
    token: str, first: Kind[A], second: Kind[B], third: Kind[C], /, *, field: str = ...
) -> tuple[A, B, C] | None: ...


def key(token: str, /, *kinds: Kind[Any], field: str = "page_token") -> tuple[Any, ...] | None:
    """The sort key in `token`, each part of its kind; None for the first page (an empty token).

    Raises InvalidArgumentError with the reason PAGE_TOKEN_INVALID for anything that a list with such a key
    could not have answered. `field` is where the request had it.
    """
    if not token:
        return None
    try:
        return _read(token, kinds)
    except (ValueError, RecursionError):
        raise InvalidArgumentError(
            field, "must be the token of an earlier answer", "PAGE_TOKEN_INVALID"
        ) from None


def _read(token: str, kinds: tuple[Kind[Any], ...]) -> tuple[Any, ...]:
    """Raises ValueError, and RecursionError for what is nested too deeply."""
    if len(token) > MAX_TOKEN:
        raise ValueError
    padded = token + "=" * (-len(token) % 4)
    parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    if not isinstance(parts, list):
        raise ValueError
    return tuple(kind(part) for kind, part in zip(kinds, parts, strict=True))


def _written(part: Key) -> str | int:
    match part:
        case datetime():
            return to_us(part)
        case uuid.UUID():
            return str(part)
        case _:
            return part


def _within(part: object, bits: int) -> int:
    # A bool is an int to Python, and none to JSON.
    if type(part) is not int or not -(1 << bits) <= part < 1 << bits:
        raise ValueError
    return part


_EARLIEST_US: Final = to_us(EARLIEST)
_LATEST_US: Final = to_us(LATEST)
