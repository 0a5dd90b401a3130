"""Remembers which event ids were seen lately. It selects which rows are looked up, never what is a duplicate.

One stored id makes a whole COPY fail, and to look up each id before would cost up to a fourth of the COPY. So
only suspects are looked up. A wrong suspicion costs that lookup; a missed one costs a repetition of the COPY.
The primary key alone decides what is a duplicate.

The memory is two Bloom filters in blocks of four words. When the younger one has `capacity` ids, it becomes
the older one, whose ids are forgotten. So at least the latest `capacity` ids are remembered for certain.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np
import numpy.typing as npt

from meterline_ingest.event.columns import Flags, Ids, Int64s

Words = npt.NDArray[np.uint64]

# At 32 bits an id a full filter suspects one in 30,000 new ids wrongly, so a flush of 5,000 new ids seldom
# costs a lookup. At 16 bits nearly each would.
BITS_AN_ID: Final = 32
# A block of four words lies in one cache line. An id has two bits in each word; twelve bits of its hash
# choose them, by a table of all pairs.
_WORDS: Final = 4
_BLOCK: Final = np.dtype(("V", 8 * _WORDS))
_PAIRS: Final = 1 << 12
_BITS: Final = np.array([1 << bit for bit in range(64)], np.uint64)
_MASKS: Final[Words] = (_BITS[:, None] | _BITS).reshape(_PAIRS)
# Four flags that are true, read as one number.
_ALL_TRUE: Final = np.uint32(0x01010101)


class RecentlySeen:
    """One for each process. Not for several threads."""

    def __init__(self, capacity_log2: int = 21) -> None:
        """Two filters for 2^capacity_log2 ids each, of 4 bytes an id: 16 MiB by default."""
        blocks_log2 = capacity_log2 - (_WORDS * 64 // BITS_AN_ID).bit_length() + 1
        self._capacity = 1 << capacity_log2
        self._shift = np.uint64(64 - blocks_log2)
        self._younger: Words = np.zeros((1 << blocks_log2, _WORDS), np.uint64)
        # Not `zeros_like`, which writes: untouched pages take no memory.
        self._older: Words = np.zeros(self._younger.shape, np.uint64)
        self._count = 0
        # Secret, so that nobody can choose ids that fill one block. The last bit makes them odd.
        self._factors = [np.uint64(secrets.randbits(64) | 1) for _ in range(4)]

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self._younger.nbytes + self._older.nbytes

    def add(self, ids: Ids, tenant_ids: Int64s) -> tuple[Flags, Flags]:
        """Returns (suspects, repeated): the rows whose id may have been seen in an earlier call, and those
        with the id of an earlier row of this call. All are seen from now on."""
        hashes = self._hashes(ids, tenant_ids)
        repeated = _repeated(hashes, ids, tenant_ids)
        if self._count + len(hashes) > self._capacity:
            self._younger, self._older, self._count = self._older, self._younger, 0
            self._younger.fill(0)
        young, old = self._probe(hashes)
        self._count += int(np.count_nonzero(~(young | repeated)))
        return young | old, repeated

    def _hashes(self, ids: Ids, tenant_ids: Int64s) -> Words:
        halves = np.ascontiguousarray(ids).view(np.uint64).reshape(-1, 2)
        first, second, third, last = self._factors
        hashes: Words = halves[:, 0] * first
        hashes ^= halves[:, 1] * second
        hashes ^= tenant_ids.astype(np.uint64) * third
        hashes ^= hashes >> np.uint64(32)
        hashes *= last
        return hashes

    def _probe(self, hashes: Words) -> tuple[Flags, Flags]:
        """Which hashes the younger and the older filter have. The younger one has them all afterwards."""
        at = (hashes >> self._shift).astype(np.int64)
        bits = hashes * self._factors[0]
        bits ^= bits >> np.uint64(31)
        pairs = bits.view(np.uint16) & np.uint16(_PAIRS - 1)
        masks = _MASKS.take(pairs).reshape(-1, _WORDS)
        words = self._younger.take(at, axis=0)
        young, old = _have(words, masks), _have(self._older.take(at, axis=0), masks)
        words |= masks
        # As blocks of bytes, which numpy copies three times as fast as rows of words.
        self._younger.view(_BLOCK).reshape(-1)[at] = words.view(_BLOCK).reshape(-1)
        # Of several rows that share a block only the last was written.
        lost = np.flatnonzero(~_have(self._younger.take(at, axis=0), masks))
        np.bitwise_or.at(self._younger, at[lost], masks[lost])
        return young, old


def _have(words: Words, masks: Words) -> Flags:
    """The blocks that have all bits of their masks."""
    equal = (words & masks) == masks
    every: Flags = equal.view(np.uint32).reshape(-1) == _ALL_TRUE
    return every


def _repeated(hashes: Words, ids: Ids, tenant_ids: Int64s) -> Flags:
    """Rows that have the id and tenant of an earlier row. The hashes only find candidates."""
    repeated = np.zeros(len(hashes), np.bool_)
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return repeated
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    # Of each row, the first one that has its hash.
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[starts], np.diff(np.append(starts, len(order))))
    later = np.flatnonzero(first != np.arange(len(order)))
    same = (ids[later] == ids[first[later]]) & (tenant_ids[later] == tenant_ids[first[later]])
    repeated[later[same]] = True
    return repeated
