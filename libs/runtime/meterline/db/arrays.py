"""Columns to Postgres in its own binary format, without a Python object a value.

One array parameter, or one COPY buffer, holds a whole column. The plain twin of each function is the
driver's own adaptation of lists; `tests/unit/runtime/test_arrays.py` holds them against each other, and
`tests/bench/arrays.py` shows what the difference buys.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from psycopg import AsyncConnection
from psycopg.adapt import Dumper
from psycopg.pq import Format

# Postgres counts time from 2000-01-01.
POSTGRES_EPOCH_US: Final = 946_684_800_000_000

COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
COPY_TRAILER: Final = struct.pack(">h", -1)

_OID_BOOL, _OID_BYTEA, _OID_INT8, _OID_INT4, _OID_INT2, _OID_TEXT = 16, 17, 20, 23, 21, 25
_OID_TIMESTAMPTZ, _OID_UUID = 1184, 2950
_HEADER = struct.Struct(">iiiii")
# In the place of an element's length.
_NULL: Final = struct.pack(">i", -1)


class Binary:
    """A parameter that is in Postgres' binary format already. Its type is stated in the query."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _BinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Binary) -> bytes:
        return obj.data


def register(connection: AsyncConnection[Any]) -> None:
    """Lets `connection` take `Binary` parameters."""
    connection.adapters.register_dumper(Binary, _BinaryDumper)


def _fixed(oid: int, width: int, dtype: str, values: npt.NDArray[Any]) -> Binary:
    count = len(values)
    if count == 0:
        return Binary(struct.pack(">iii", 0, 0, oid))
    cells = np.empty(count, dtype=[("length", ">i4"), ("value", dtype)])
    cells["length"] = width
    cells["value"] = values
    return Binary(_HEADER.pack(1, 0, oid, count, 1) + cells.tobytes())


def int2_array(values: npt.NDArray[Any]) -> Binary:
    return _fixed(_OID_INT2, 2, ">i2", values)


def int4_array(values: npt.NDArray[Any]) -> Binary:
    return _fixed(_OID_INT4, 4, ">i4", values)


def int8_array(values: npt.NDArray[Any]) -> Binary:
    return _fixed(_OID_INT8, 8, ">i8", values)


def uuid_array(values: npt.NDArray[np.void]) -> Binary:
    """`values` has dtype V16."""
    return _fixed(_OID_UUID, 16, "V16", values)


def timestamptz_array(microseconds: npt.NDArray[np.int64]) -> Binary:
    """Microseconds since the Unix epoch."""
    return _fixed(_OID_TIMESTAMPTZ, 8, ">i8", microseconds - POSTGRES_EPOCH_US)


def int8_array_or_null(values: npt.NDArray[np.int64], present: npt.NDArray[np.bool_] | None) -> Binary:
    """An int8 array with NULL where `present` is false."""
    if present is None or bool(present.all()):
        return int8_array(values)
    full = _HEADER.pack(1, 1, _OID_INT8, len(values), 1)
    cells = [
        struct.pack(">iq", 8, value) if here else _NULL
        for value, here in zip(values.tolist(), present.tolist(), strict=True)
    ]
    return Binary(full + b"".join(cells))


def _variable(oid: int, values: Sequence[bytes | None]) -> Binary:
    if not values:
        return Binary(struct.pack(">iii", 0, 0, oid))
    cells = b"".join(_NULL if value is None else struct.pack(">i", len(value)) + value for value in values)
    return Binary(_HEADER.pack(1, None in values, oid, len(values), 1) + cells)


def text_array(values: Sequence[str | None]) -> Binary:
    return _variable(_OID_TEXT, [None if value is None else value.encode() for value in values])


def bytea_array(values: Sequence[bytes | None]) -> Binary:
    return _variable(_OID_BYTEA, values)
