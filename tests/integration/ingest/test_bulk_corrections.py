"""Corrections of many events: selection by ids or filters, bounded chunks, and resumption."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline.bus.subjects import EVENTS_ACCEPTED
from meterline.ids import new_id
from meterline_ingest.corrections import correct_many
from meterline_protos.events.v1 import events_pb2 as facts_pb2
from meterline_protos.ingest.v1 import corrections_pb2 as pb

from tests.support.capture import RunningIngest, Sample, columns, now_us, rows
from tests.support.corrections_calls import Corrections, signs

pytestmark = pytest.mark.req("T3.4")

HOUR = 3_600_000_000
NOW = now_us()
SUBJECTS = ("s0", "s1", "s2")
SOURCES = ("north", "south")
RETRACT: dict[str, Any] = {"retract": pb.Retraction()}


@pytest.fixture
def corrections(ingest: RunningIngest) -> Corrections:
    return Corrections(ingest)


def units(text: str) -> pb.EventChanges:
    return pb.EventChanges(quantities={"units": text})


async def published(ingest: RunningIngest) -> list[facts_pb2.EventsAccepted]:
    """All messages on the stream."""
    jetstream = ingest.bus.jetstream()
    subscription = await jetstream.pull_subscribe(EVENTS_ACCEPTED.subject, stream=EVENTS_ACCEPTED.stream)
    count = (await jetstream.stream_info(EVENTS_ACCEPTED.stream)).state.messages
    found: list[facts_pb2.EventsAccepted] = []
    while len(found) < count:
        for message in await subscription.fetch(count, timeout=5):
            found.append(facts_pb2.EventsAccepted.FromString(message.data))
    return found


async def test_bulk_correction_publishes_few_messages(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    samples = [Sample() for _ in range(6_000)]
    await ingest.report(columns(*samples))
    ids = pb.EventIds(event_ids=[sample.id for sample in samples])

    amended = await corrections.correct(ids=ids, amend=units("3"))
    retracted = await corrections.correct(ids=ids, **RETRACT)

    assert (amended.complete, amended.corrected, amended.failed) == (True, 6_000, 0)
    assert (retracted.complete, retracted.corrected, retracted.failed) == (True, 6_000, 0)
    assert await corrections.total() == 0
    made = await corrections.listed(correction_id=amended.correction_id, page_size=1000)
    assert len({each.batch_id for each in made}) == 3
    later = await corrections.listed(correction_id=retracted.correction_id, page_size=1000)
    assert len({each.batch_id for each in later}) == 2


async def test_failed_corrections_are_reported_and_others_succeed(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    bounded = [Sample(quantities={"units": value}) for value in ("1", "2", "3")]
    await ingest.report(rows(*bounded))
    await corrections.retract(bounded[1].id)
    missing = str(new_id())
    ids = [bounded[0].id, missing, bounded[1].id, bounded[2].id]

    answer = await corrections.correct(ids=pb.EventIds(event_ids=ids), amend=units("3"))

    assert (answer.corrected, answer.unchanged, answer.failed) == (1, 1, 2)
    assert {(each.event_id, each.reason) for each in answer.failures} == {
        (missing, "NOT_FOUND"),
        (bounded[1].id, "RETRACTED"),
    }
    again = await corrections.correct(
        ids=pb.EventIds(event_ids=ids), amend=units("3"), correction_id=answer.correction_id
    )
    assert again == answer


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"ids": pb.EventIds()}, "ids.event_ids"),
        ({"ids": pb.EventIds(event_ids=["a", "a"])}, "ids.event_ids"),
        ({"ids": pb.EventIds(event_ids=map(str, range(10_001)))}, "ids.event_ids"),
        ({"filter": pb.EventsFilter(type="api.request")}, "filter"),
        ({"filter": pb.EventsFilter(batch_ids=["x"])}, "filter.batch_ids"),
        ({}, "events"),
    ],
)
async def test_call_without_valid_selection_is_refused(
    corrections: Corrections, wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await corrections.correct(**wrong, **RETRACT)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(f"{field}:")
    with pytest.raises(aio.AioRpcError) as caught:
        await corrections.correct(ids=pb.EventIds(event_ids=["a"]))
    assert str(caught.value.details()).startswith("action:")


def limit_chunks(monkeypatch: pytest.MonkeyPatch, chunks: int | None, rows_at_once: int) -> None:
    """Limits each call to `chunks` chunks (None: no limit) of `rows_at_once` rows."""

    def pace() -> Callable[[], bool]:
        left = itertools.count() if chunks is None else iter(range(chunks))
        return lambda: next(left, None) is not None

    monkeypatch.setattr(correct_many, "_pace", pace)
    monkeypatch.setattr(correct_many, "MAX_MESSAGE_ROWS", rows_at_once)


@pytest.mark.parametrize("by_filter", [False, True], ids=["ids", "filter"])
async def test_repeated_call_resumes_an_interrupted_one(
    ingest: RunningIngest, corrections: Corrections, monkeypatch: pytest.MonkeyPatch, by_filter: bool
) -> None:
    samples = [Sample(quantities={"units": "1"}) for _ in range(25)]
    reported = await ingest.report(rows(*samples))
    call: dict[str, Any] = {"amend": units("4"), "correction_id": str(uuid.uuid4())}
    if by_filter:
        call["filter"] = pb.EventsFilter(batch_ids=[reported.batch_id])
    else:
        call["ids"] = pb.EventIds(event_ids=[sample.id for sample in samples])
    limit_chunks(monkeypatch, chunks=1, rows_at_once=20)

    answers: list[pb.CorrectEventsResponse] = []
    while not answers or not answers[-1].complete:
        answers.append(await corrections.correct(**call))

    assert [answer.corrected for answer in answers][:3] == [10, 20, 25]
    assert answers[-1] == await corrections.correct(**call)
    made = await corrections.listed(correction_id=call["correction_id"])
    assert sorted(each.event_id for each in made) == sorted(sample.id for sample in samples)
    assert (
        sum(rows_ - 2 * taken for fact in (await published(ingest))[1:] for rows_, taken in signs(fact)) == 0
    )


async def test_concurrent_repeats_correct_each_event_once(
    ingest: RunningIngest, corrections: Corrections, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [Sample(quantities={"units": "1"}) for _ in range(40)]
    reported = await ingest.report(rows(*samples))
    limit_chunks(monkeypatch, chunks=None, rows_at_once=10)
    call: dict[str, Any] = {
        "amend": units("4"),
        "correction_id": str(uuid.uuid4()),
        "filter": pb.EventsFilter(batch_ids=[reported.batch_id]),
    }

    answers = await asyncio.gather(*(corrections.correct(**call) for _ in range(4)))

    assert {(answer.complete, answer.corrected) for answer in answers} == {(True, 40)}
    assert {each.revision for each in await corrections.listed()} == {1}


# --- selection by filters


@dataclass(frozen=True)
class Known:
    """The current state of an event, and the batches that wrote it, the reporting batch first."""

    sample: Sample
    source: str
    batches: tuple[str, ...]


class History:
    """Reports and corrects random events, and records their current states."""

    def __init__(self, ingest: RunningIngest, corrections: Corrections, order: random.Random) -> None:
        self._ingest = ingest
        self._corrections = corrections
        self._order = order
        self.mark = f"mark-{new_id()}"
        self.current: dict[str, Known] = {}

    async def report(self) -> None:
        """Reports events within a short or long span of time."""
        source, span = self._order.choice(SOURCES), self._order.choice([HOUR // 60, HOUR, 6 * HOUR])
        samples = [
            Sample(
                subject=self._order.choice(SUBJECTS),
                time_us=NOW - self._order.randrange(span) - self._order.choice([0, 2, 5]) * HOUR,
                dimensions={"region": self.mark},
            )
            for _ in range(self._order.randint(1, 6))
        ]
        answer = await self._ingest.report(rows(*samples, source=source))
        self.current |= {each.id: Known(each, source, (answer.batch_id,)) for each in samples}

    async def correct(self) -> None:
        """Amends or retracts one event."""
        if not self.current:
            return
        event_id = self._order.choice(sorted(self.current))
        known = self.current.pop(event_id)
        if self._order.random() < 0.3:
            await self._corrections.retract(event_id)
            return
        subject = self._order.choice(SUBJECTS)
        time_us = known.sample.time_us - self._order.randint(0, 3) * HOUR - 1
        changes = pb.EventChanges(subject=subject)
        changes.time.FromMicroseconds(time_us)
        made = (await self._corrections.amend(event_id, changes)).correction
        sample = replace(known.sample, subject=subject, time_us=time_us)
        self.current[event_id] = Known(sample, known.source, (*known.batches, made.batch_id))

    def filter(self) -> tuple[pb.EventsFilter, set[str]]:
        """A random filter, and the ids of the events that it selects."""
        chosen = pb.EventsFilter()
        selected = list(self.current.values())
        batches = sorted({batch for known in selected for batch in known.batches})
        start, end = sorted(self._order.sample(range(0, 12 * HOUR, HOUR // 4), 2), reverse=True)
        if self._order.random() < 0.5 and batches:
            chosen.batch_ids.extend(self._order.sample(batches, self._order.randint(1, len(batches))))
            selected = [each for each in selected if set(each.batches) & set(chosen.batch_ids)]
        if not chosen.batch_ids or self._order.random() < 0.3:
            chosen.time.start_time.FromMicroseconds(NOW - start)
            chosen.time.end_time.FromMicroseconds(NOW - end)
            selected = [each for each in selected if NOW - start <= each.sample.time_us < NOW - end]
        if self._order.random() < 0.5:
            chosen.subject = self._order.choice(SUBJECTS)
            selected = [each for each in selected if each.sample.subject == chosen.subject]
        if self._order.random() < 0.4:
            chosen.source = self._order.choice(SOURCES)
            selected = [each for each in selected if each.source == chosen.source]
        return chosen, {each.sample.id for each in selected}


@given(seed=st.integers(0, 2**32), rows_at_once=st.integers(2, 14))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_filter_selects_by_current_state(
    ingest: RunningIngest,
    corrections: Corrections,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    rows_at_once: int,
) -> None:
    """Compares with a plain check of every event, for chunks of any size."""
    order = random.Random(seed)
    await retract_all(corrections, monkeypatch)
    history = History(ingest, corrections, order)
    for _ in range(order.randint(1, 10)):
        await (history.report() if order.random() < 0.5 else history.correct())
    chosen, selected = history.filter()
    limit_chunks(monkeypatch, chunks=None, rows_at_once=rows_at_once)

    tried = await corrections.correct(filter=chosen, **RETRACT, dry_run=True)
    answer = await corrections.correct(filter=chosen, **RETRACT)

    made = await corrections.listed(correction_id=answer.correction_id)
    assert {each.event_id for each in made} == selected
    assert (answer.complete, answer.corrected, answer.failed) == (True, len(selected), 0)
    assert (tried.corrected, tried.failed) == (len(selected), 0)


async def retract_all(corrections: Corrections, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retracts the events of earlier examples."""
    limit_chunks(monkeypatch, chunks=None, rows_at_once=5_000)
    everything = pb.EventsFilter()
    everything.time.start_time.FromSeconds(1)
    answer = await corrections.correct(filter=everything, **RETRACT)
    assert answer.complete
    assert await corrections.total() == 0
