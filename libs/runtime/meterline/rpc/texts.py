"""The rule that holds for the text of every request: no NUL, which Postgres cannot keep or compare.

The whole request is walked before its handler sees it, along its descriptor, so that no handler can forget a
field. The walk is bounded, and so is the handlers' work: a request of very many tiny parts, which would keep
the event loop busy for seconds, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from enum import Enum, auto
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from meterline.errors import InvalidArgumentError

# Above the largest request that any handler takes: 1,000 entries of the catalogue with 32 attributes each.
MAX_PARTS: Final = 100_000
# Reading a message takes about as long as reading ten texts.
MESSAGE_PARTS: Final = 10
# Of a key, which the violation names.
_SHOWN: Final = 64


class _Kind(Enum):
    TEXT = auto()
    MESSAGE = auto()
    MAP = auto()
    OTHER = auto()


def check_texts(request: Message, unchecked: Collection[str] = ()) -> None:
    """Raises InvalidArgumentError: TEXT_INVALID with the path of the first text that has a NUL, and
    REQUEST_TOO_LARGE for more than `MAX_PARTS` values and messages, which count as `MESSAGE_PARTS` each.

    unchecked: fields of the request itself that the walk leaves out
    """
    path = _Walk().message(request, unchecked)
    if path is not None:
        raise InvalidArgumentError(path, "no NUL characters", "TEXT_INVALID")


class _Walk:
    """Every method answers the path of the first text that has a NUL; None when there is none."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_PARTS

    def message(self, message: Message, unchecked: Collection[str] = ()) -> str | None:
        self._count(MESSAGE_PARTS)
        for field, value in message.ListFields():
            if field.name not in unchecked:
                path = self._field(field, value)
                if path is not None:
                    return f"{field.name}{path}"
        return None

    def _field(self, field: FieldDescriptor, value: Any) -> str | None:
        match _kind(field):
            case _Kind.MAP:
                return self._map(value)
            case _Kind.MESSAGE:
                return self._each(value) if field.is_repeated else _below(self.message(value))
            case _Kind.TEXT:
                return self._each(value) if field.is_repeated else self._text(value)
            case _:
                self._count(len(value) if field.is_repeated else 1)
                return None

    def _each(self, values: Sequence[Any]) -> str | None:
        # Counted before the loop, which may be long.
        self._count(len(values))
        for at, value in enumerate(values):
            path = _below(self.message(value)) if isinstance(value, Message) else _nul(value)
            if path is not None:
                return f"[{at}]{path}"
        return None

    def _map(self, values: Mapping[Any, Any]) -> str | None:
        self._count(2 * len(values))
        for key, value in values.items():
            path = _nul(key)
            if path is None:
                path = _below(self.message(value)) if isinstance(value, Message) else _nul(value)
            if path is not None:
                return f"[{json.dumps(str(key)[:_SHOWN])}]{path}"
        return None

    def _text(self, value: str) -> str | None:
        self._count(1)
        return _nul(value)

    def _count(self, parts: int) -> None:
        self._left -= parts
        if self._left < 0:
            raise InvalidArgumentError("request", f"at most {MAX_PARTS:,} values", "REQUEST_TOO_LARGE")


def _nul(value: object) -> str | None:
    return "" if isinstance(value, str) and "\0" in value else None


def _below(path: str | None) -> str | None:
    return None if path is None else f".{path}"


@cache
def _kind(field: FieldDescriptor) -> _Kind:
    message = field.message_type
    if message is not None:
        return _Kind.MAP if message.GetOptions().map_entry else _Kind.MESSAGE
    return _Kind.TEXT if field.type == FieldDescriptor.TYPE_STRING else _Kind.OTHER
