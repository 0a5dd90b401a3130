"""Counts the outcomes of events, and reports to the application those that do not count."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from meterline_protos.ingest.v1 import capture_pb2

from meterline_client.batches import Batch
from meterline_client.clock import Clock
from meterline_client.events import Event, Outcome, OutcomeKind, Row, to_event
from meterline_client.retry import Failure
from meterline_client.stats import Counters

log = logging.getLogger(__name__)

OutcomeCallback = Callable[[Outcome], None]

_KINDS = {
    capture_pb2.OUTCOME_CONFLICT: OutcomeKind.CONFLICT,
    capture_pb2.OUTCOME_REJECTED: OutcomeKind.REJECTED,
}


def is_complete(response: capture_pb2.ReportResponse, count: int) -> bool:
    """Whether an answer accounts for each of `count` events: less is no acknowledgement."""
    total = response.accepted + response.duplicate + response.conflict + response.rejected
    return total == count and all(one.index < count for one in response.outcomes)


class Ledger:
    """`callback` runs in the thread that delivers; what it raises is logged."""

    def __init__(self, counters: Counters, callback: OutcomeCallback | None, clock: Clock) -> None:
        self.counters = counters
        self._callback = callback
        self.warn = Throttle(clock)

    def acknowledged(self, batch: Batch, response: capture_pb2.ReportResponse) -> None:
        """The server has the batch, and said what became of each event."""
        self.counters.accepted += response.accepted
        self.counters.duplicate += response.duplicate
        self.counters.conflict += response.conflict
        self.counters.rejected += response.rejected
        reported = [one for one in response.outcomes if one.outcome in _KINDS]
        events = batch.events() if reported else []
        for one in reported:
            self._report(events[one.index], _KINDS[one.outcome], one.reason, one.field, one.message)

    def refused(self, batch: Batch, failure: Failure) -> None:
        """The server refused the call, and these events are why."""
        self.counters.rejected += batch.count
        self._report_all(batch.events(), OutcomeKind.REJECTED, failure)

    def failed(self, batch: Batch, failure: Failure) -> None:
        """Given up; whether the server has the events is not known."""
        self.counters.failed += batch.count
        self._report_all(batch.events(), OutcomeKind.FAILED, failure)

    def dropped(self, events: Iterable[Event], count: int, reason: str, message: str) -> None:
        """Lost; `events` are those of `count` that can be named."""
        self.counters.dropped += count
        for event in events:
            self._report(event, OutcomeKind.DROPPED, reason, "", message)

    def overflowed(self, rows: list[Row]) -> None:
        """Dropped by the buffer, which counted them."""
        for row in rows:
            self._report(to_event(row), OutcomeKind.DROPPED, "BUFFER_FULL", "", "the buffer is full")

    def _report_all(self, events: list[Event], kind: OutcomeKind, failure: Failure) -> None:
        for event in events:
            self._report(event, kind, failure.reason or failure.code.name, failure.field, failure.message)

    def _report(self, event: Event, kind: OutcomeKind, reason: str, field: str, message: str) -> None:
        if self._callback is None:
            self.warn(f"event {kind} ({reason})", "%s: %s %s", event.id, field, message)
            return
        try:
            self._callback(Outcome(event, kind, reason, field, message))
        except Exception:
            log.exception("on_outcome raised")


class Throttle:
    """Logs at most one warning of a kind a minute, with the number of those that it held back."""

    _MINUTE = 60.0
    _MAX_KINDS = 256

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}
        self._held: Counter[str] = Counter()

    def __call__(self, kind: str, message: str, *details: object) -> None:
        now = self._clock.monotonic()
        if now < self._next.get(kind, now):
            self._held[kind] += 1
            return
        if len(self._next) >= self._MAX_KINDS:
            self._next.clear()
            self._held.clear()
        self._next[kind] = now + self._MINUTE
        held = self._held.pop(kind, 0)
        more = f" (and {held} before it)" if held else ""
        log.warning(f"%s%s: {message}", kind, more, *details)
