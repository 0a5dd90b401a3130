"""Valid requests with one field inflated to the maximal size of a request.

Fields are discovered from the descriptors, so that those of new RPCs are included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.support.wire_format import part

# Maximal length of the path to a field; deeper paths repeat.
_DEPTH: Final = 4
# Bytes reserved for the messages around the field.
_MARGIN: Final = 4_000

Fill = Callable[[FieldDescriptor, int], bytes]
"""Values of a field on the wire, of so many bytes together at most."""


def inflated(valid: Message, most: int) -> Iterator[tuple[str, bytes]]:
    """A name and a request for each field of variable length and each way to fill it.

    most: maximal bytes of a request
    """
    sent = valid.SerializeToString()
    for path in _paths(valid.DESCRIPTOR, ()):
        for way, fill in _ways(path[-1]).items():
            values = fill(path[-1], most - len(sent) - _MARGIN)
            # Later values on the wire are merged into earlier ones, or appended to repeated fields.
            yield f"{'.'.join(each.name for each in path)} {way}", sent + _within(valid, path[:-1], values)


def _paths(descriptor: Any, above: tuple[FieldDescriptor, ...]) -> Iterator[tuple[FieldDescriptor, ...]]:
    for field in descriptor.fields:
        path, inner = (*above, field), field.message_type
        if _ways(field):
            yield path
        again = inner in [each.message_type for each in above]
        if inner is not None and not _is_map(field) and not again and len(path) < _DEPTH:
            yield from _paths(inner, path)


def _within(valid: Message, path: Sequence[FieldDescriptor], values: bytes) -> bytes:
    """Appends `values` to the message at `path`; for a repeated message, to a copy of its first element."""
    if not path:
        return values
    field, below = path[0], getattr(valid, path[0].name)
    first: Message | None = below
    if field.is_repeated:
        first = below[0] if below else None
    if first is None:
        first = _message_class(field)()
    inner = _within(first, path[1:], values)
    start = first.SerializeToString() if field.is_repeated else b""
    return part(field.number, start + inner)


def _message_class(field: FieldDescriptor) -> Any:
    assert field.message_type is not None
    return GetMessageClass(field.message_type)


def _ways(field: FieldDescriptor) -> Mapping[str, Fill]:
    if field.message_type is not None:
        if _is_map(field):
            return {"empty": _empty, "distinct": _distinct_keys}
        return {"empty": _empty} if field.is_repeated else {}
    if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return {}
    return {"empty": _empty, "distinct": _distinct} if field.is_repeated else {"long": _long}


def _empty(field: FieldDescriptor, room: int) -> bytes:
    one = part(field.number, b"")
    return one * (room // len(one))


def _distinct(field: FieldDescriptor, room: int) -> bytes:
    return _numbered(field, room, b"%08x")


def _distinct_keys(field: FieldDescriptor, room: int) -> bytes:
    return _numbered(field, room, b"\n\x08%08x")


def _numbered(field: FieldDescriptor, room: int, pattern: bytes) -> bytes:
    """Values that end in consecutive numbers. Must be fast, since megabytes of them are made often."""
    example = part(field.number, pattern % 0)
    values = np.empty((room // len(example), len(example)), np.uint8)
    # Only the digits differ, since all values have the same length.
    values[:] = np.frombuffer(example, np.uint8)
    digits = np.arange(len(values), dtype=">u4").tobytes().hex().encode()
    values[:, -8:] = np.frombuffer(digits, np.uint8).reshape(-1, 8)
    return values.tobytes()


def _long(field: FieldDescriptor, room: int) -> bytes:
    return part(field.number, b"x" * room)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
