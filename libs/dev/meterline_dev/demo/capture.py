"""Capture: every flight becomes an event, sent through the SDK that applications use."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final

from meterline_client import Client, Outcome, Stats

from meterline_dev.demo.carriers import CARRIERS
from meterline_dev.demo.errors import DemoError
from meterline_dev.demo.flights import Flight
from meterline_dev.demo.meters import EVENT_TYPE

SOURCE: Final = "flights-csv"
_BATCH: Final = 5_000
_SLICE: Final = 2_000
# Recording never waits, so a source that is faster than any server has to.
_MOST_BUFFERED: Final = 40_000
_PATIENCE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.01
_TENANTS: Final = {carrier.code: carrier.tenant for carrier in CARRIERS}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event does not count: stable code, field at fault, the rule for people."""

    reason: str
    field: str
    message: str


@dataclass(slots=True)
class Captured:
    """The outcomes of the flights that were read: accepted, duplicate or rejected, unless something is wrong.

    refusals: how many of each kind, and one flight of each
    """

    read: int = 0
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    conflict: int = 0
    failed: int = 0
    dropped: int = 0
    seconds: float = 0.0
    refusals: Counter[Refusal] = field(default_factory=Counter)
    examples: dict[Refusal, str] = field(default_factory=dict)

    @property
    def events_per_second(self) -> float:
        return self.read / self.seconds if self.seconds else 0.0

    def note(self, outcome: Outcome) -> None:
        """Notes an event that was not accepted, by its reason."""
        refusal = Refusal(outcome.reason, outcome.field, outcome.message)
        self.refusals[refusal] += 1
        event = outcome.event
        route = f"{event.dimensions.get('origin')} to {event.dimensions.get('dest')}"
        self.examples.setdefault(refusal, f"{event.tenant_id.upper()} {route}\n{event.id}")

    def settle(self, stats: Stats) -> None:
        """Takes over what the client counted."""
        self.accepted, self.duplicate = stats.accepted, stats.duplicate
        self.rejected, self.conflict = stats.rejected, stats.conflict
        self.failed, self.dropped = stats.failed, stats.dropped


async def capture(
    target: str, token: str, flights: Sequence[Flight], shift: timedelta, progress: Callable[[int], None]
) -> Captured:
    """Sends all flights, `shift` later than they were, to the ingest service at `target`, with this token.

    `progress` gets the number of events that have their answer, in another thread. DemoError when ingest
    stops answering.
    """
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(_capture, target, token, flights, shift, progress, given_up)
    finally:
        # A thread cannot be cancelled, so this event asks it to stop.
        given_up.set()


def _capture(
    target: str,
    token: str,
    flights: Sequence[Flight],
    shift: timedelta,
    progress: Callable[[int], None],
    given_up: threading.Event,
) -> Captured:
    captured = Captured(read=len(flights))
    client = Client(target, source=SOURCE, api_key=token, batch_events=_BATCH, on_outcome=captured.note)
    started = time.perf_counter()
    try:
        rest = iter(flights)
        while _record(client, islice(rest, _SLICE), shift):
            _wait(client, _MOST_BUFFERED, progress, given_up)
        client.flush(timeout=0)
        _wait(client, 0, progress, given_up)
        captured.seconds = time.perf_counter() - started
    finally:
        client.close(timeout=0)
    captured.settle(client.stats)
    return captured


def _record(client: Client, flights: Iterator[Flight], shift: timedelta) -> int:
    count = 0
    for count, flight in enumerate(flights, 1):  # noqa: B007
        quantities = {"miles": flight.miles}
        if flight.air_minutes is not None:
            quantities["air_minutes"] = flight.air_minutes
        client.record(
            EVENT_TYPE,
            flight.tail_number,
            time=flight.departed + shift,
            dimensions={"origin": flight.origin, "dest": flight.destination},
            quantities=quantities,
            event_id=flight.event_id,
            tenant_id=_TENANTS[flight.carrier],
        )
    return count


def _wait(client: Client, most: int, progress: Callable[[int], None], given_up: threading.Event) -> None:
    """Until at most `most` events are without an answer; patience is counted from the last answer."""
    answered, deadline = -1, 0.0
    while True:
        stats = client.stats
        # Counted by their outcomes: between two queues an event is in neither for a moment.
        done = (
            stats.accepted + stats.duplicate + stats.conflict + stats.rejected + stats.failed + stats.dropped
        )
        waiting = stats.recorded - done
        if done > answered:
            answered, deadline = done, time.monotonic() + _PATIENCE_SECONDS
            progress(answered)
        if waiting <= most:
            return
        if time.monotonic() > deadline:
            raise DemoError(f"{waiting:,} events got no answer from ingest within {_PATIENCE_SECONDS:.0f} s")
        if given_up.wait(_POLL_SECONDS):
            raise DemoError("capture was given up")
