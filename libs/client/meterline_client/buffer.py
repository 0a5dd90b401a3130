"""The buffer between the application and delivery: bounded, and never waited for.

Rows gather in chunks of the size of a batch, so that delivery takes thousands of them by moving one
reference, and the lock is held for a fraction of a microsecond on either side.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from meterline_client.clock import Clock
from meterline_client.events import Row
from meterline_client.spool import Journal

# Beyond this a chunk is closed before it has all its rows, so that heavy rows do not make huge batches.
_CHUNK_BYTES = 8 << 20

# Rows that found no place are counted, every one; this many at a time are kept to be reported one by one.
_REPORTED_OVERFLOW = 1_000


@dataclass(slots=True)
class Chunk:
    """Rows of one future batch. `sequence` counts chunks from 1; `weight` is their memory in bytes, about;
    `journaled` says whether the journal has each of them."""

    sequence: int
    journaled: bool
    opened: float = 0.0
    weight: int = 0
    rows: list[Row] = field(default_factory=list)


class Buffer:
    """Holds at most `max_events` rows and, up to the last of them, `max_bytes`.

    With a `journal`, each row is in it before `add` returns. `wake` is called when delivery may have
    something to do that it did not have before: rarely, and without the lock.
    """

    def __init__(
        self,
        *,
        max_events: int,
        max_bytes: int,
        chunk_events: int,
        flush_interval: float,
        clock: Clock,
        wake: Callable[[], None],
        journal: Journal | None = None,
    ) -> None:
        self._journal = journal
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._chunk_events = chunk_events
        self._flush_interval = flush_interval
        self._clock = clock
        self._wake = wake
        # Reentrant, because a signal handler or a finalizer may record while its thread is recording.
        self._lock = threading.RLock()
        self._full: deque[Chunk] = deque()
        self._open = Chunk(1, journal is not None)
        self._events = 0
        self._bytes = 0
        self._overflow: deque[Row] = deque(maxlen=_REPORTED_OVERFLOW)
        self._closed = False
        self.recorded = 0
        """Rows that were ever added, the dropped ones included."""
        self.dropped = 0
        """Rows that found no place."""

    @property
    def events(self) -> int:
        return self._events

    @property
    def level(self) -> float:
        """How full it is, from 0 to 1."""
        return max(self._events / self._max_events, self._bytes / self._max_bytes)

    def add(self, row: Row, weight: int) -> None:
        """Keeps the row, or counts it as dropped when there is no space. RuntimeError once closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            self.recorded += 1
            if self._events >= self._max_events or self._bytes >= self._max_bytes:
                self.dropped += 1
                self._overflow.append(row)
                wake = len(self._overflow) == 1
            else:
                chunk = self._open
                # To the journal first: an event that `record` answered for is safe.
                if self._journal is not None and not self._journal.append(row):
                    chunk.journaled = False
                chunk.rows.append(row)
                chunk.weight += weight
                self._events += 1
                self._bytes += weight
                count = len(chunk.rows)
                if count == 1:
                    chunk.opened = self._clock.monotonic()
                wake = count >= self._chunk_events or chunk.weight >= _CHUNK_BYTES
                if wake:
                    self._seal()
                wake = wake or count == 1
        if wake:
            self._wake()

    def seal(self) -> int:
        """Closes the open chunk, so that it need not wait; answers with the sequence of the last chunk that
        holds a row that was added before (0: there was none)."""
        with self._lock:
            if self._open.rows:
                self._seal()
            return self._open.sequence - 1

    def take(self, now: float) -> Chunk | None:
        """The oldest chunk that is full or has waited for the interval."""
        with self._lock:
            if not self._full and self._open.rows and now >= self._open.opened + self._flush_interval:
                self._seal()
            if not self._full:
                return None
            chunk = self._full.popleft()
            self._events -= len(chunk.rows)
            self._bytes -= chunk.weight
            return chunk

    def due(self) -> float | None:
        """When `take` will have a chunk (a moment in the past: now); None while it holds nothing."""
        with self._lock:
            if self._full:
                return self._full[0].opened
            return self._open.opened + self._flush_interval if self._open.rows else None

    def oldest(self) -> int:
        """The sequence of the oldest chunk that was not taken."""
        with self._lock:
            return self._full[0].sequence if self._full else self._open.sequence

    def take_overflow(self) -> list[Row]:
        """Rows that were dropped since the last call, the latest 1,000 of them."""
        with self._lock:
            rows = list(self._overflow)
            self._overflow.clear()
            return rows

    def close(self) -> None:
        """From now on `add` raises."""
        with self._lock:
            self._closed = True

    def release(self, sequence: int) -> OSError | None:
        """Chunks up to this one have their outcome, or are in the spool: the journal need not have them.
        Answers with the journal's latest error, if there was one."""
        if self._journal is None:
            return None
        with self._lock:
            files = self._journal.release(sequence)
            error = self._journal.take_error()
        try:
            for file in files:
                file.delete()
        except OSError as failure:
            error = failure
        return error

    def close_journal(self) -> None:
        """What was not released stays on disk, for the next process. OSError when the disk fails."""
        if self._journal is not None:
            with self._lock:
                self._journal.close()

    def _seal(self) -> None:
        if self._journal is not None:
            self._journal.mark(self._open.sequence)
        self._full.append(self._open)
        self._open = Chunk(self._open.sequence + 1, self._journal is not None)
