"""A capture service in memory, and the client's core without threads, under a manual clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from meterline_client.buffer import Buffer
from meterline_client.delivery import Delivery, Mark
from meterline_client.events import Outcome, Row
from meterline_client.ledger import Ledger
from meterline_client.reading import decode
from meterline_client.recording import Recorder
from meterline_client.recovery import recover_journals
from meterline_client.retry import Failure
from meterline_client.spool import Spool
from meterline_client.spooling import Spooling
from meterline_client.stats import Counters
from meterline_client.transport import Answer
from meterline_client.tuning import Tuning
from meterline_client.window import Parcel
from meterline_protos.ingest.v1 import capture_pb2

_NOTHING = dict.fromkeys(("time", "dimensions", "quantities", "event_id", "tenant_id"))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class ManualClock:
    """Both clocks of the client, which move only by `advance`."""

    def __init__(self) -> None:
        self._elapsed_us = 0

    def monotonic(self) -> float:
        return 1_000.0 + self._elapsed_us / 1e6

    def now_us(self) -> int:
        return int(NOON.timestamp()) * 1_000_000 + self._elapsed_us

    def advance(self, seconds: float) -> None:
        self._elapsed_us += round(seconds * 1e6)


def rows(count: int, subject: str | None = None, **fields: Any) -> list[Row]:
    """`count` rows with unique ids, and unique subjects unless one is given."""
    recorder = Recorder("acme", ManualClock(), None)
    return [recorder.row("api.called", subject or f"s{n}", **_NOTHING | fields)[1] for n in range(count)]


def id_text(identity: bytes | str) -> str:
    return identity if isinstance(identity, str) else str(UUID(bytes=identity))


def ids_of(payload: bytes) -> list[str]:
    return [id_text(row[0]) for row in decode(payload)[1]]


class Capture:
    """A correct capture service: an id counts once, and events with the subject `bad` are rejected."""

    def __init__(self) -> None:
        self.counted: set[str] = set()
        """Ids that count."""
        self.received: list[bytes] = []

    def report(self, payload: bytes) -> capture_pb2.ReportResponse:
        """Accepts new events and answers by the protocol."""
        self.received.append(payload)
        response = capture_pb2.ReportResponse(batch_id="0" * 32)
        for index, row in enumerate(decode(payload)[1]):
            text = id_text(row[0])
            if row[3] == "bad":
                response.rejected += 1
                response.outcomes.add(
                    index=index,
                    outcome=capture_pb2.OUTCOME_REJECTED,
                    reason="SUBJECT_UNKNOWN",
                    field="subject",
                    message="no such subject",
                    event_id=text,
                )
            elif text in self.counted:
                response.duplicate += 1
                response.outcomes.add(index=index, outcome=capture_pb2.OUTCOME_DUPLICATE, event_id=text)
            else:
                self.counted.add(text)
                response.accepted += 1
        return response


class Core:
    """Delivery with a scripted server: every attempt calls `answer`; None leaves it unanswered."""

    def __init__(
        self,
        answer: Callable[[Parcel], Answer | None] | None = None,
        *,
        spool_dir: Path | None = None,
        max_spool_bytes: int = 1 << 20,
        max_events: int = 1_000,
        chunk_events: int = 10,
        **tuning: float,
    ) -> None:
        self.capture = Capture()
        self.clock = ManualClock()
        self.tuning = Tuning(**tuning)  # type: ignore[arg-type]
        self.counters = Counters()
        self.outcomes: list[Outcome] = []
        self.attempts: list[tuple[float, Parcel]] = []
        self.unanswered: list[Parcel] = []
        self.answer = answer or self.accept
        self._due: list[tuple[Parcel, Answer]] = []
        self.recorder = Recorder("acme", self.clock, None)
        self.buffer = Buffer(
            max_events=max_events,
            max_bytes=64 << 20,
            chunk_events=chunk_events,
            flush_interval=0.5,
            clock=self.clock,
            wake=lambda: None,
        )
        self.ledger = Ledger(self.counters, self.outcomes.append, self.clock)
        recover = partial(recover_journals, own=None, ledger=self.ledger)
        self.spool = Spool(spool_dir, max_spool_bytes, recover=recover) if spool_dir else None
        self.delivery = Delivery(
            buffer=self.buffer,
            spooling=Spooling(self.spool, self.ledger, self.tuning.spool_retry) if self.spool else None,
            source="test/1",
            tuning=self.tuning,
            clock=self.clock,
            rng=random.Random(7),
            ledger=self.ledger,
            send=self._send,
        )

    def accept(self, parcel: Parcel) -> Answer:
        return self.capture.report(parcel.batch.payload)

    def _send(self, parcel: Parcel) -> None:
        self.attempts.append((self.clock.monotonic(), parcel))
        answer = self.answer(parcel)
        if answer is None:
            self.unanswered.append(parcel)
        else:
            self._due.append((parcel, answer))

    def record(self, count: int = 1, subject: str = "s", **fields: Any) -> list[str]:
        """Records events; returns their ids."""
        texts = []
        for _ in range(count):
            text, row, weight = self.recorder.row("api.called", subject, **_NOTHING | fields)
            self.buffer.add(row, weight)
            texts.append(text)
        return texts

    def settle(self) -> float | None:
        """Steps with a stopped clock until delivery is idle; returns the pause that it asks for."""
        while True:
            pause = self.delivery.step()
            if not self._due:
                assert pause is None or pause > 0, "delivery never becomes idle"
                return pause
            while self._due:
                self.delivery.answered(*self._due.pop(0))

    def run(self, seconds: float) -> None:
        """Advances the clock, and steps at each due moment."""
        end = self.clock.monotonic() + seconds
        for moment in self._moments(end):
            self.clock.advance(moment - self.clock.monotonic())

    def _moments(self, end: float) -> Iterator[float]:
        while True:
            pause = self.settle()
            # At least the resolution of the clock.
            due = self.clock.monotonic() + max(pause, 1e-5) if pause is not None else end
            if due >= end:
                yield end
                self.settle()
                return
            yield due

    def flushed(self) -> bool:
        return self.delivery.is_delivered(Mark(self.buffer.seal()))

    def total(self) -> int:
        """All events that are counted, dropped or pending: must equal the recorded ones."""
        c = self.counters
        known = c.accepted + c.duplicate + c.conflict + c.rejected + c.failed + c.dropped
        return known + self.buffer.dropped + self.buffer.events + c.window + c.spooled

    def close(self) -> None:
        self.delivery.close()


def fail(failure: Failure) -> Callable[[Parcel], Answer | None]:
    """A script that fails every attempt."""
    return lambda _: failure
