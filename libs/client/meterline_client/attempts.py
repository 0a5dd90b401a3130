"""What the end of an attempt means for its batch, and for all others."""

from __future__ import annotations

import logging
import random

import grpc
from meterline_protos.ingest.v1 import capture_pb2

from meterline_client.batches import Batch, split
from meterline_client.breaker import Breaker, BreakerState
from meterline_client.ledger import Ledger, is_complete
from meterline_client.retry import Backoff, Failure, Verdict, judge
from meterline_client.spooling import Spooling
from meterline_client.tuning import Tuning
from meterline_client.window import Parcel, Window

log = logging.getLogger(__name__)

# Parts that a batch in doubt is cut into: few calls to find one bad event, and few when all are bad.
_PARTS = 8

# Fields of the whole request: no part of the batch would fare better.
_REQUEST_FIELDS = frozenset({"tenant_id", "source"})

_INCOMPLETE = Failure(grpc.StatusCode.UNKNOWN, "the answer does not account for every event")


class Attempts:
    """Applies the verdict on each attempt to the window, the breaker, the spool and the ledger."""

    def __init__(
        self,
        window: Window,
        breaker: Breaker,
        spooling: Spooling | None,
        ledger: Ledger,
        tuning: Tuning,
        rng: random.Random,
    ) -> None:
        self._window = window
        self._breaker = breaker
        self._spooling = spooling
        self._ledger = ledger
        self._backoff = Backoff(tuning.backoff_base, tuning.backoff_longest)
        self._doubtful_attempts = tuning.doubtful_attempts
        self._rng = rng
        self.held_until = 0.0
        """Until then the server has asked not to be called."""

    def ended(self, parcel: Parcel, answer: capture_pb2.ReportResponse | Failure, now: float) -> None:
        if isinstance(answer, Failure):
            self._failed(parcel, answer, now)
        elif not is_complete(answer, parcel.batch.count):
            self._failed(parcel, _INCOMPLETE, now)
        else:
            self._reached(now)
            self._ledger.acknowledged(parcel.batch, answer)
            self._done(parcel)

    def _failed(self, parcel: Parcel, failure: Failure, now: float) -> None:
        verdict = judge(failure)
        if verdict is Verdict.NEVER:
            self._reached(now)
            self._refused(parcel, failure, now)
            return
        due = now + self._backoff.delay(parcel.attempts, failure.retry_after, self._rng)
        if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._reached(now)
            if failure.retry_after is not None:
                self.held_until = max(self.held_until, due)
        else:
            self._missed(failure, now)
        if verdict is not Verdict.LATER:
            parcel.strikes += 1
            if parcel.strikes >= self._doubtful_attempts:
                self._attempts_exhausted(parcel, failure, verdict, due)
                return
        self._window.back(parcel, due)

    def _attempts_exhausted(self, parcel: Parcel, failure: Failure, verdict: Verdict, due: float) -> None:
        if parcel.batch.count > 1:
            self._window.replace(parcel, split(parcel.batch, _PARTS), due)
        elif verdict is Verdict.DOUBTFUL:
            self._ledger.failed(parcel.batch, failure)
            self._done(parcel)
        else:
            self._window.back(parcel, due)

    def _refused(self, parcel: Parcel, failure: Failure, now: float) -> None:
        batch = parcel.batch
        if batch.count == 1 or _is_about_all(batch, failure):
            self._ledger.refused(batch, failure)
            self._done(parcel)
        else:
            self._window.replace(parcel, split(batch, _PARTS), now)

    def _done(self, parcel: Parcel) -> None:
        """Every event of the batch has its outcome."""
        record = parcel.origin.record
        if record is None:
            self._ledger.counters.window -= parcel.batch.count
        else:
            self._ledger.counters.spooled -= parcel.batch.count
        if self._window.remove(parcel) and record is not None and self._spooling is not None:
            self._spooling.ack(record)

    def _reached(self, now: float) -> None:
        if self._breaker.state is not BreakerState.CLOSED:
            log.info("the server answers again")
            for parcel in self._window.waiting:
                parcel.due = min(parcel.due, now)
        self._breaker.succeeded()

    def _missed(self, failure: Failure, now: float) -> None:
        before = self._breaker.state
        self._breaker.failed(now)
        if before is BreakerState.CLOSED and self._breaker.state is BreakerState.OPEN:
            log.warning(
                "the server does not answer (%s %s): events are kept until it does",
                failure.code.name,
                failure.message,
            )


def _is_about_all(batch: Batch, failure: Failure) -> bool:
    """Whether the server refuses something that all events of the batch share."""
    if failure.field not in _REQUEST_FIELDS:
        return False
    return failure.field == "source" or len({event.tenant_id for event in batch.events()}) == 1
