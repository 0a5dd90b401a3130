"""Columns of whole numbers as little-endian bytes, each column as narrow as its values allow.

The width is not written: it follows from the length and the number of rows. Most columns of a message
are positions in small dictionaries, or values close to each other, so this saves a third of the bytes
that the outbox, the broker and both ends would carry.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_UNSIGNED: Final = tuple(np.dtype(code) for code in ("<u1", "<u2", "<u4"))
_SIGNED: Final = tuple(np.dtype(code) for code in ("<i1", "<i2", "<i4", "<i8"))


def pack_unsigned(values: npt.NDArray[np.integer[Any]]) -> bytes:
    """`values` are below 2^32 and not negative."""
    if not len(values):
        return b""
    most = values.max()
    dtype = next(each for each in _UNSIGNED if most <= np.iinfo(each).max)
    return values.astype(dtype).tobytes()


def pack_signed(values: npt.NDArray[np.int64]) -> bytes:
    if not len(values):
        return b""
    least, most = values.min(), values.max()
    dtype = next(each for each in _SIGNED if np.iinfo(each).min <= least and most <= np.iinfo(each).max)
    return values.astype(dtype).tobytes()


def unpack_unsigned(data: bytes, rows: int) -> npt.NDArray[np.uint32]:
    """What `pack_unsigned` wrote. Raises ValueError when `data` is not of `rows` values."""
    return np.frombuffer(data, _dtype(_UNSIGNED, data, rows)).astype(np.uint32, copy=False)


def unpack_signed(data: bytes, rows: int) -> npt.NDArray[np.int64]:
    """What `pack_signed` wrote. Raises ValueError when `data` is not of `rows` values."""
    return np.frombuffer(data, _dtype(_SIGNED, data, rows)).astype(np.int64, copy=False)


def _dtype(choices: tuple[np.dtype[Any], ...], data: bytes, rows: int) -> np.dtype[Any]:
    for dtype in choices:
        if len(data) == rows * dtype.itemsize:
            return dtype
    raise ValueError(f"{len(data)} bytes are not {rows} values")
