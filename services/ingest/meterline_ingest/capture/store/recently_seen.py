"""A hint whether an event id was seen lately. It selects how a row is stored, never what is a duplicate.

Most batches are all new, and COPY stores those fastest; but one repeated id makes COPY fail as a whole.
Rows that this hint suspects are stored by INSERT … ON CONFLICT instead. A wrong suspicion costs a little
speed, a missed one costs a repetition of the batch; the primary key alone decides what is a duplicate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from meterline_ingest.event.columns import Flags, Ids, Int64s

_FACTORS = tuple(np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))


class RecentlySeen:
    """A direct-mapped table of 64-bit hashes: bounded, and forgetting by being overwritten."""

    def __init__(self, slots_log2: int = 19) -> None:
        """2^slots_log2 slots of 12 bytes: 6 MiB by default."""
        self._shift = np.uint64(64 - slots_log2)
        self._hashes: npt.NDArray[np.uint64] = np.zeros(1 << slots_log2, np.uint64)
        self._owners: npt.NDArray[np.int32] = np.zeros(1 << slots_log2, np.int32)

    def suspects(self, ids: Ids, tenant_ids: Int64s) -> Flags:
        """Rows whose id may have been seen, here or earlier in the batch; all are seen from now on."""
        halves = ids.view(np.uint64).reshape(-1, 2)
        hashes = (halves[:, 0] * _FACTORS[0]) ^ (halves[:, 1] * _FACTORS[1])
        hashes ^= tenant_ids.astype(np.uint64) * _FACTORS[2]
        slots = ((hashes * _FACTORS[0]) >> self._shift).astype(np.int64)
        seen: Flags = self._hashes[slots] == hashes
        self._hashes[slots] = hashes
        # Of rows that share a slot the first keeps it, so that of two equal ids the first one wins.
        rows = np.arange(len(slots), dtype=np.int32)
        self._owners[slots[::-1]] = rows[::-1]
        owners = self._owners[slots]
        repeated: Flags = (owners != rows) & (hashes[owners] == hashes)
        return np.logical_or(seen, repeated)
