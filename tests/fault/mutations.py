"""Mutated requests, wrong in one to three places: in their fields, and in their bytes.

Every mutation is determined by a seed and its number, so that each can be repeated alone.
"""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

# Larger requests would be refused for their size, which proves nothing.
LARGEST: Final = 1 << 20

TEXTS: Final = (
    "",
    " ",
    "\0",
    "a\0b",
    "\n\t\x1b[0m",
    "x" * 129,
    "x" * 257,
    "y" * 5_000,
    "é" * 300,
    "\N{GRINNING FACE}" * 70,
    "\ufeff\u202e\u0301",
    "\uffff\U0010ffff",
    "٣",
    "NaN",
    "sNaN",
    "-Infinity",
    "1e1000000",
    "-1e-1000030",
    "1e999999999999999999",
    "9" * 400,
    "0." + "1" * 400,
    "+5",
    ".5",
    "5.",
    "1_000",
    "0x10",
    "-0",
    "99999999999.9999999999999999999999999",
    "20261129-083900-1234-5678-9012345678",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "{00000000-0000-0000-0000-000000000000}",
    "2" * 36,
    "%s %(x)s {} {0} \\x",
    "'; DROP TABLE events; --",
    "../../etc/passwd",
    "a/b",
    "true",
    "null",
    "units",
    "api.request",
    "dimensions.region",
    "9999-12-31T23:59:59.999999999Z",
)
INTEGERS: Final = (
    0,
    1,
    -1,
    2,
    77,
    1_001,
    10**9,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32 - 1,
    2**53,
    2**62,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
)
SECONDS: Final = (
    0,
    -1,
    1,
    -62_135_596_800,
    -62_135_596_801,
    -62_135_510_400,
    253_402_300_799,
    253_402_300_800,
    253_400_000_000,
    253_370_764_800,
    221_845_392_000,
    4_102_444_800,
    1_582_934_400,
    2**62,
    2**63 - 1,
    -(2**63),
)
NANOS: Final = (0, 1, 999, 999_999_999, 1_000_000_000, 2_000_000_000, -1, 2**31 - 1, -(2**31))
PARTS: Final[tuple[Any, ...]] = (
    0,
    -1,
    2**31,
    2**62,
    2**63 - 1,
    -(2**63),
    2**63,
    10**30,
    1.5,
    True,
    None,
    "",
    "x",
    "a\0b",
    "\ud800",
    "00000000-0000-0000-0000-000000000000",
    "0" * 32,
    1_700_000_000_000_000,
    253_402_300_799_999_999,
    -62_135_596_800_000_000,
    [],
    {},
)
_BITS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Mutator:
    """Mutates one request. `texts`: names of another tenant's objects; `others`: valid requests as bytes."""

    def __init__(self, seed: str, texts: Sequence[str], others: Sequence[bytes]) -> None:
        self._random = random.Random(seed)
        self._texts = (*TEXTS, *texts)
        self._others = others

    def mutated(self, valid: Message) -> bytes:
        """The mutated request."""
        message = type(valid)()
        message.CopyFrom(valid)
        fields, raw = self._random.choice(((1, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (1, 1)))
        for _ in range(fields):
            self._fields(message)
        data = message.SerializeToString()
        for _ in range(raw):
            data = self._bytes(data)
        return data[:LARGEST]

    def chance(self, of: float) -> bool:
        return self._random.random() < of

    # --- fields

    def _fields(self, message: Message) -> None:
        target = self._somewhere(message)
        fields: Any = target.DESCRIPTOR.fields
        if fields:
            self._mutate(target, self._random.choice(fields))

    def _somewhere(self, message: Message) -> Message:
        """The message or a nested one, all equally likely."""
        found = [message]
        for each in found:
            for field, value in each.ListFields():
                if field.message_type is None or len(found) > 1_000:
                    continue
                if not field.is_repeated:
                    found.append(value)
                elif not _is_map(field):
                    found.extend(value)
                elif field.message_type.fields_by_name["value"].message_type is not None:
                    found.extend(value.values())
        return self._random.choice(found)

    def _mutate(self, message: Message, field: FieldDescriptor) -> None:
        if self.chance(0.1):
            message.ClearField(field.name)
        elif _is_map(field):
            self._map(getattr(message, field.name), field)
        elif field.is_repeated:
            self._repeated(getattr(message, field.name), field)
        elif field.message_type is not None:
            self._message(getattr(message, field.name))
        else:
            setattr(message, field.name, self._value(field, getattr(message, field.name)))

    def _message(self, message: Message) -> None:
        message.SetInParent()
        match message:
            case Timestamp():
                self._time(message)
            case struct_pb2.Struct() | struct_pb2.Value() | struct_pb2.ListValue() if self.chance(0.3):
                self._nested(message)
            case _:
                self._fields(message)

    def _time(self, stamp: Timestamp) -> None:
        if self.chance(0.7):
            stamp.seconds = self._random.choice(SECONDS)
        if self.chance(0.5):
            stamp.nanos = self._random.choice(NANOS)

    def _nested(self, message: Any) -> None:
        inner: Any = struct_pb2.Value(string_value="x")
        for _ in range(self._random.choice((3, 20, 45))):
            inner = struct_pb2.Value(list_value=struct_pb2.ListValue(values=[inner]))
        match message:
            case struct_pb2.Struct():
                message.fields[self._text("")].CopyFrom(inner)
            case struct_pb2.ListValue():
                message.values.append(inner)
            case _:
                message.CopyFrom(inner)

    def _map(self, target: Any, field: FieldDescriptor) -> None:
        assert field.message_type is not None
        value_type = field.message_type.fields_by_name["value"]
        key = self._random.choice(sorted(target)) if target and self.chance(0.5) else self._text("")
        if value_type.message_type is not None:
            self._message(target[key])
        else:
            target[key] = self._value(value_type, target.get(key, ""))
        if self.chance(0.05) and value_type.message_type is None:
            for at in range(300):
                target[f"k{at}"] = "x"

    def _repeated(self, target: Any, field: FieldDescriptor) -> None:
        times = self._random.choice((1, 1, 1, 2, 70, 1_001))
        if field.message_type is not None:
            if target and self.chance(0.5):
                for _ in range(times):
                    target.append(target[0])
            else:
                self._message(target.add())
        elif target and self.chance(0.5):
            at = self._random.randrange(len(target))
            target[at] = self._value(field, target[at])
        else:
            value = target[0] if target and self.chance(0.5) else self._value(field, None)
            target.extend([value] * times)

    def _value(self, field: FieldDescriptor, old: Any) -> Any:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return self._raw(old or b"")
            case FieldDescriptor.CPPTYPE_STRING:
                return self._token() if field.name.endswith("_token") else self._text(old or "")
            case FieldDescriptor.CPPTYPE_BOOL:
                return not old
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return self._random.choice((float("nan"), float("inf"), -0.0, 1e308, 0.1, 2.0**53, -1.0))
        least, most = _BITS[field.cpp_type]
        return self._random.choice([number for number in INTEGERS if least <= number <= most])

    def _text(self, old: str) -> str:
        match self._random.randrange(8):
            case 0:
                return f"{old}\0"
            case 1:
                return old[: self._random.randrange(len(old) + 1)] + self._random.choice(self._texts)
            case 2:
                return (old * 2)[:2_000]
            case 3:
                return old.swapcase()
            case _:
                return self._random.choice(self._texts)

    def _token(self) -> str:
        if self.chance(0.2):
            return self._text("")
        parts = [self._random.choice(PARTS) for _ in range(self._random.randrange(1, 5))]
        kinds: tuple[Any, ...] = (
            [self._random.choice((2**62, 253_402_300_800_000_000, -(2**62), 10**17)), "0" * 32],
            [2**62],
            [1_700_000_000_000_000, "00000000-0000-0000-0000-000000000000", 2**40],
            ["", self._text("")],
            parts,
            {"a": parts},
        )
        written = json.dumps(self._random.choice(kinds))
        return base64.urlsafe_b64encode(written.encode()).decode().rstrip("=")

    # --- bytes

    def _raw(self, old: bytes) -> bytes:
        ways: list[Callable[[], bytes]] = [
            lambda: b"",
            lambda: old[: self._random.randrange(len(old) + 1)],
            lambda: old + old,
            lambda: self._random.randbytes(self._random.choice((1, 7, 8, 16, 64, 300))),
            lambda: struct.pack("<q", self._random.choice(INTEGERS[:-1])) * max(1, len(old) // 8),
            lambda: b"\xff" * len(old),
            lambda: bytes(len(old)),
            lambda: self._bytes(old),
        ]
        return self._random.choice(ways)()

    def _bytes(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        end = min(len(data), at + self._random.choice((1, 2, 4, 16, 100)))
        other = self._random.choice(self._others) if self._others else b""
        ways: list[Callable[[], bytes]] = [
            lambda: data[:at] + bytes([self._random.randrange(256)]) + data[at + 1 :],
            lambda: (
                data[:at] + bytes(byte ^ 1 << self._random.randrange(8) for byte in data[at:end]) + data[end:]
            ),
            lambda: data[:at] + self._random.randbytes(self._random.randrange(1, 9)) + data[at:],
            lambda: data[:at] + data[end:],
            lambda: data[:end] + data[at:],
            lambda: data[:at],
            lambda: data[:at] + other[self._random.randrange(len(other) + 1) :],
            lambda: data + other,
            lambda: data[:at] + b"\0" * (end - at) + data[end:],
            lambda: data + b"\x0b" * self._random.choice((1, 99, 101, 5_000)),
            lambda: data + data,
        ]
        return self._random.choice(ways)()


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
