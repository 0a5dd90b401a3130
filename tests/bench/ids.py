"""Millions of ids, UUIDv7 or random, without a Python object for each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint8]

_COUNTER_LOW_BITS = 10
_RANDOM_BITS = 52


def uuid7(made_at_ms: Int64s, rng: np.random.Generator) -> Ids:
    """One id in each row of 16 bytes, for events made at these milliseconds since the Unix epoch.

    The 22 bits after the version count the events of one millisecond, so that ids of the same millisecond are
    ordered; 52 bits are random, so that ids of different generators differ.
    """
    count = len(made_at_ms)
    counters = _positions_in_runs(made_at_ms)
    random = rng.integers(0, 1 << _RANDOM_BITS, count, np.int64)
    halves = np.empty((count, 2), ">u8")
    halves[:, 0] = made_at_ms << 16 | 0x7000 | counters >> _COUNTER_LOW_BITS
    low = (counters & (1 << _COUNTER_LOW_BITS) - 1) << _RANDOM_BITS | random
    halves[:, 1] = low.astype(np.uint64) | np.uint64(1 << 63)
    return halves.view(np.uint8).reshape(count, 16)


def uuid4(count: int, rng: np.random.Generator) -> Ids:
    """One random id in each row of 16 bytes."""
    ids = rng.integers(0, 1 << 8, (count, 16), np.uint8)
    ids[:, 6] = ids[:, 6] & 0x0F | 0x40
    ids[:, 8] = ids[:, 8] & 0x3F | 0x80
    return ids


def _positions_in_runs(values: Int64s) -> Int64s:
    """The number of directly preceding equal elements of each element."""
    at = np.arange(len(values))
    begins = np.ones(len(values), np.bool_)
    begins[1:] = values[1:] != values[:-1]
    return at - np.maximum.accumulate(np.where(begins, at, 0))


def texts(ids: Ids) -> list[str]:
    """The ids in their text form."""
    digits = ids.tobytes().hex()
    return [
        f"{digits[i : i + 8]}-{digits[i + 8 : i + 12]}-{digits[i + 12 : i + 16]}"
        f"-{digits[i + 16 : i + 20]}-{digits[i + 20 : i + 32]}"
        for i in range(0, len(digits), 32)
    ]
