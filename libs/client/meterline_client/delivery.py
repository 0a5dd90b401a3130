"""Delivery: decides what is sent, retried, cut, spooled and given up, and when.

It does no network I/O, starts no thread and reads no clock but the one it is given: a driver calls `step`,
waits as long as that says, and reports the answers to what `send` was asked to send. For one thread.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
from meterline_protos.ingest.v1 import capture_pb2

from meterline_client.attempts import Attempts
from meterline_client.batches import Batch, cut
from meterline_client.breaker import Breaker, BreakerState
from meterline_client.buffer import Buffer, Chunk
from meterline_client.clock import Clock
from meterline_client.events import to_event
from meterline_client.ledger import Ledger
from meterline_client.retry import Failure
from meterline_client.spooling import Spooling
from meterline_client.tuning import Tuning
from meterline_client.window import Origin, Parcel, Window

log = logging.getLogger(__name__)

# From this level on the buffer is emptied to disk, so that `record` finds space while the server is slow.
_CROWDED = 0.75

_UNSENT = Failure(grpc.StatusCode.CANCELLED, "the client was closed before it had an answer", reason="CLOSED")


@dataclass(slots=True)
class Mark:
    """What a flush waits for: chunks up to `sequence`, and the spool up to `position` (known once none of the
    chunks is in memory)."""

    sequence: int
    position: int | None = None


class Delivery:
    """`send` starts an attempt; its end is reported to `answered`, in the thread that calls `step`."""

    def __init__(
        self,
        *,
        buffer: Buffer,
        spooling: Spooling | None,
        source: str,
        tuning: Tuning,
        clock: Clock,
        rng: random.Random,
        ledger: Ledger,
        send: Callable[[Parcel], None],
    ) -> None:
        self._buffer = buffer
        self._spooling = spooling
        self._source = source
        self._spool_after = tuning.spool_after
        self._max_in_flight = tuning.max_in_flight
        self._clock = clock
        self._ledger = ledger
        self._counters = ledger.counters
        self._send = send
        self._window = Window(tuning.max_in_flight)
        self._breaker = Breaker(tuning.breaker_failures, tuning.breaker_cooldown, tuning.breaker_longest, rng)
        # Seconds between two looks at what other processes left, and when the next one is due.
        self._spool_scan = tuning.spool_scan
        self._scan_at = clock.monotonic() + tuning.spool_scan
        # The lowest chunk that stays in the journal at the end.
        self._left_in_journal: int | None = None
        self._attempts = Attempts(self._window, self._breaker, spooling, ledger, tuning, rng)

    @property
    def breaker(self) -> BreakerState:
        return self._breaker.state

    def step(self) -> float | None:
        """Does all due work. Returns the seconds until more is due; None: only after it is woken."""
        now = self._clock.monotonic()
        self._ledger.overflowed(self._buffer.take_overflow())
        self._inherit(now)
        self._empty_window(now)
        self._take_in(now)
        self._replay(now)
        self._dispatch(now)
        self._release_journal()
        moments = list(self._moments(now))
        return max(0.0, min(moments) - now) if moments else None

    def answered(self, parcel: Parcel, answer: capture_pb2.ReportResponse | Failure) -> None:
        """An attempt has ended."""
        self._attempts.ended(parcel, answer, self._clock.monotonic())

    def look_for_left(self) -> None:
        """The next step takes over what ended processes left in the spool, however lately it looked."""
        self._scan_at = self._clock.monotonic()

    def is_delivered(self, mark: Mark) -> bool:
        """Whether everything before the mark has its outcome."""
        if self._buffer.oldest() <= mark.sequence or self._window.holds_up_to(mark.sequence):
            return False
        if self._spooling is None:
            return True
        if mark.position is None:
            mark.position = self._spooling.position()
        return self._spooling.is_past(mark.position)

    @property
    def may_leave(self) -> bool:
        """Whether waiting for the server is in vain, and what is unsent is safe on disk after `abandon`."""
        return self._spooling is not None and self._breaker.state is not BreakerState.CLOSED

    def abandon(self) -> None:
        """Moves events without an outcome to disk; those that do not fit are dropped and reported."""
        now = self._clock.monotonic()
        for parcel in self._window.not_on_disk():
            self._leave(parcel.batch, parcel.origin, now, attempted=parcel.attempts > 0)
        while (chunk := self._buffer.take(float("inf"))) is not None:
            origin = Origin(chunk.sequence, journaled=chunk.journaled)
            for batch in self._encoded(chunk):
                self._leave(batch, origin, now, attempted=False)
        self._ledger.overflowed(self._buffer.take_overflow())

    def close(self) -> None:
        """`abandon`, and the spool is free for another process."""
        try:
            self.abandon()
            self._close_journal()
        finally:
            if self._spooling is not None:
                self._spooling.close()

    def _leave(self, batch: Batch, origin: Origin, now: float, *, attempted: bool) -> None:
        if self._spooling is not None and self._spooling.store(batch, now):
            pass
        elif origin.journaled:
            # The spool is full or fails; the next process finds the events in the journal.
            self._counters.spooled += batch.count
            self._left_in_journal = min(self._left_in_journal or origin.sequence, origin.sequence)
        elif attempted:
            self._ledger.failed(batch, _UNSENT)
        else:
            self._ledger.dropped(batch.events(), batch.count, "CLOSED", _UNSENT.message)
        self._counters.window -= batch.count

    def _inherit(self, now: float) -> None:
        """Takes over what a process left that ended after this one began."""
        if self._spooling is not None and now >= self._scan_at:
            self._scan_at = now + self._spool_scan
            self._spooling.inherit()

    def _release_journal(self) -> None:
        """Lets the journal forget what has its outcome or is in the spool."""
        waiting = self._buffer.oldest()
        sent = self._window.oldest()
        self._report(self._buffer.release((waiting if sent is None else min(waiting, sent)) - 1))

    def _close_journal(self) -> None:
        self._report(self._buffer.release((self._left_in_journal or self._buffer.oldest()) - 1))
        try:
            self._buffer.close_journal()
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError | None) -> None:
        if error is not None:
            self._counters.spool_errors += 1
            self._ledger.warn("the journal fails, so that events may be in memory only", "%s", error)

    def _empty_window(self, now: float) -> None:
        """Moves waiting events to disk when the server has been unavailable for long."""
        away = self._away_from()
        if self._spooling is None or away is None or now < away:
            return
        for parcel in self._window.waiting_in_memory():
            if not self._spooling.store(parcel.batch, now):
                return
            self._counters.window -= parcel.batch.count
            self._window.remove(parcel)

    def _take_in(self, now: float) -> None:
        """Chunks of the buffer become batches: in the window, or on disk when the server cannot keep up."""
        while True:
            spill = self._spill_from(now)
            spilling = spill is not None and now >= spill
            if self._window.full and not spilling:
                return
            chunk = self._buffer.take(now)
            if chunk is None:
                return
            origin = Origin(chunk.sequence, journaled=chunk.journaled)
            for batch in self._encoded(chunk):
                if spilling and self._spooling is not None and self._spooling.store(batch, now):
                    self._counters.window -= batch.count
                    continue
                self._window.add(Parcel(batch, origin, now))

    def _encoded(self, chunk: Chunk) -> list[Batch]:
        """The batches of a chunk that was taken; from here on they count as the window's."""
        self._counters.window += len(chunk.rows)
        try:
            return list(cut(chunk.rows, self._source))
        except Exception:
            # Recording has checked every value, so this is a fault of the client. It must not stop it.
            log.exception("%d events cannot be encoded", len(chunk.rows))
            events = [to_event(row) for row in chunk.rows]
            self._ledger.dropped(events, len(events), "NOT_ENCODABLE", "the event cannot be encoded")
            self._counters.window -= len(events)
            return []

    def _replay(self, now: float) -> None:
        """Sends one batch of the spool at a time, in parallel with batches of the buffer."""
        if self._spooling is None or self._window.replaying:
            return
        record = self._spooling.take()
        if record is not None and record.payload is not None:
            self._window.add(Parcel(Batch(record.payload, record.count), Origin(0, record), now))

    def _dispatch(self, now: float) -> None:
        if now < self._attempts.held_until:
            return
        while len(self._window.in_flight) < self._max_in_flight:
            parcel = self._window.ready(now)
            if parcel is None or not self._breaker.allow(now):
                return
            self._window.depart(parcel)
            parcel.attempts += 1
            self._counters.retries += parcel.attempts > 1
            self._send(parcel)

    def _away_from(self) -> float | None:
        """When the server counts as unavailable for long; None while it answers."""
        since = self._breaker.failing_since
        if self._spooling is None or since is None:
            return None
        return max(since + self._spool_after, self._spooling.blocked_until)

    def _spill_from(self, now: float) -> float | None:
        """When chunks go to disk; None: not by the passing of time."""
        if self._spooling is not None and self._buffer.level >= _CROWDED:
            return max(now, self._spooling.blocked_until)
        return self._away_from()

    def _moments(self, now: float) -> Iterator[float]:
        """When `step` will have something to do. Each is later than `now` once `step` has done it all."""
        window = self._window
        if self._spooling is not None:
            yield self._scan_at
        retry = self._breaker.retry_at()
        if window.waiting and len(window.in_flight) < self._max_in_flight:
            due = max(min(parcel.due for parcel in window.waiting), self._attempts.held_until)
            if self._breaker.state is not BreakerState.HALF_OPEN:
                yield max(due, retry or due)
        away = self._away_from()
        if away is not None and window.waiting_in_memory():
            yield away
        chunk_due = self._buffer.due()
        if chunk_due is not None:
            spill = self._spill_from(now)
            if not window.full:
                yield chunk_due
            elif spill is not None:
                yield max(chunk_due, spill)
