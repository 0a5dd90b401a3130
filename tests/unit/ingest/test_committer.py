"""Group commit: which calls share a flush, which are refused, and that every call is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.errors import (
    InternalError,
    InvalidArgumentError,
    MeterlineError,
    OverloadedError,
    UnavailableError,
)
from meterline_ingest.capture import group_commit as committer_module
from meterline_ingest.capture.call import BYTES_AN_EVENT, MAX_FLUSH_EVENTS, Origin, Result, Submission, Turn
from meterline_ingest.capture.group_commit import TURN_EVENTS, Committer, Flush
from meterline_protos.ingest.v1 import capture_pb2
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from tests.support.polling import eventually


def submission(events: int = 1, *, flow: int = 1, size: int = 0) -> Submission:
    rows = [capture_pb2.Event() for _ in range(events)]
    origin = Origin("test", 0, None, INVALID_SPAN_CONTEXT)
    return Submission(origin, "acme", rows=rows, bytes=size, turn=Turn(flow))


def results(submissions: Sequence[Submission]) -> list[Result]:
    return [Result(len(each), {}, "batch") for each in submissions]


class Recorder:
    """A flush that records its submissions, and waits while `gate` is closed."""

    def __init__(self) -> None:
        self.flushed: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def __call__(self, submissions: Sequence[Submission]) -> list[Result]:
        self.flushed.append([len(each) for each in submissions])
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return results(submissions)


@asynccontextmanager
async def committer(
    flush: Flush, *, workers: int = 1, window: float = 0.005, max_queued: int = 100_000
) -> AsyncIterator[Committer]:
    made = Committer(flush, workers=workers, window=window, max_queued=max_queued)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.mark.req("T2.1")
async def test_small_calls_share_a_flush_with_separate_results() -> None:
    recorder = Recorder()
    async with committer(recorder) as made:
        calls = [submission(size) for size in (1, 2, 3)]
        for call in calls:
            made.submit(call)
        answers = [await call.result for call in calls]
    assert recorder.flushed == [[1, 2, 3]]
    assert [answer.rows for answer in answers] == [1, 2, 3]


@pytest.mark.req("T2.1")
async def test_large_call_is_flushed_immediately() -> None:
    recorder = Recorder()
    # A window longer than the test.
    async with committer(recorder, window=3_600.0) as made:
        made.submit(call := submission(1_000))
        await asyncio.wait_for(call.result, 10)


@pytest.mark.req("T2.4")
async def test_flush_size_is_bounded() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with committer(recorder) as made:
        calls = [submission(2_000) for _ in range(6)]
        for call in calls:
            made.submit(call)
        recorder.gate.set()
        await asyncio.gather(*(call.result for call in calls))
    assert all(sum(sizes) <= MAX_FLUSH_EVENTS for sizes in recorder.flushed)
    assert sum(map(sum, recorder.flushed)) == 12_000


@pytest.mark.req("T2.4")
async def test_full_queue_refuses_calls_until_it_drains() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with committer(recorder, max_queued=10) as made:
        made.submit(first := submission(10))
        with pytest.raises(OverloadedError) as refused:
            made.submit(submission(1))
        assert refused.value.retry_after > 0
        recorder.gate.set()
        await first.result
        made.submit(second := submission(10))
        await second.result


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(UnavailableError("no database"), UnavailableError), (ValueError("a fault of ours"), MeterlineError)],
)
@pytest.mark.req("T7.3")
async def test_failed_flush_fails_all_its_calls_and_the_next_succeeds(
    failure: Exception, raised: type[Exception]
) -> None:
    recorder = Recorder()
    recorder.failure = failure
    async with committer(recorder) as made:
        calls = [submission(), submission()]
        for call in calls:
            made.submit(call)
        for call in calls:
            with pytest.raises(raised):
                await call.result
        recorder.failure = None
        made.submit(call := submission())
        assert (await call.result).rows == 1


class Poisoned(Recorder):
    """A flush that fails as a whole when it contains one of `bad`, like a transaction."""

    def __init__(self, bad: Collection[int], failure: Exception) -> None:
        super().__init__()
        self.bad = bad
        self.poison = failure

    async def __call__(self, submissions: Sequence[Submission]) -> list[Result]:
        found = await super().__call__(submissions)
        if any(len(each) in self.bad for each in submissions):
            raise self.poison
        return found


@given(st.integers(1, 40), st.sets(st.integers(1, 40), max_size=4), st.booleans())
@settings(deadline=None, max_examples=60)
@pytest.mark.req("T4.2", "T7.3")
async def test_failing_flush_fails_only_the_faulty_calls(calls: int, bad: set[int], ours: bool) -> None:
    recorder = Poisoned(bad, ValueError("ours") if ours else InvalidArgumentError("field", "rule"))
    kept: list[int] = []

    async def keep(call: Submission) -> int:
        kept.append(len(call))
        return len(call)

    made = Committer(recorder, keep, workers=1, window=0.0, max_queued=100_000)
    await made.start()
    waiting = [submission(size) for size in range(1, calls + 1)]
    for call in waiting:
        made.submit(call)
    answers = await asyncio.gather(*(call.result for call in waiting), return_exceptions=True)
    await made.stop()
    for size, answer in enumerate(answers, start=1):
        if size in bad:
            assert isinstance(answer, InternalError if ours else InvalidArgumentError)
        else:
            assert isinstance(answer, Result)
            assert answer.rows == size
    assert sorted(kept) == (sorted(size for size in bad if size <= calls) if ours else [])


@pytest.mark.req("T7.3")
async def test_faulty_call_is_answered_when_quarantine_fails() -> None:
    async def keep(call: Submission) -> int:
        raise ValueError("this one too")

    made = Committer(Poisoned({1}, ValueError("ours")), keep, workers=1, window=0.0, max_queued=10)
    await made.start()
    made.submit(call := submission(1))
    with pytest.raises(InternalError, match="0 of 1 events"):
        await call.result
    await made.stop()


@pytest.mark.req("T7.3")
async def test_unavailable_database_fails_the_flush_without_single_retries() -> None:
    recorder = Poisoned({3}, UnavailableError("no database"))
    async with committer(recorder) as made:
        calls = [submission(size) for size in (1, 2, 3)]
        for call in calls:
            made.submit(call)
        for call in calls:
            with pytest.raises(UnavailableError):
                await call.result
    assert recorder.flushed == [[1, 2, 3]]


@pytest.mark.req("T7.3")
async def test_stop_flushes_queued_calls_and_refuses_later_ones() -> None:
    recorder = Recorder()
    made = Committer(recorder, workers=1, window=0.001, max_queued=100)
    await made.stop()  # a stop before the start is harmless
    await made.start()
    calls = [submission() for _ in range(5)]
    for call in calls:
        made.submit(call)
    await made.stop()
    assert [call.result.result().rows for call in calls] == [1] * 5
    with pytest.raises(UnavailableError):
        made.submit(submission())
    await made.stop()


@pytest.mark.req("T4.2")
async def test_flood_does_not_delay_other_tenants_beyond_the_next_flush() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with committer(recorder) as made:
        # The others arrive during the first flush.
        made.submit(first := submission(MAX_FLUSH_EVENTS, flow=1))
        await eventually(lambda: recorder.flushed)
        flood = [submission(500, flow=1) for _ in range(30)]
        others = [submission(flow=tenant) for tenant in range(2, 22)]
        for call in (*flood, *others):
            made.submit(call)
        recorder.gate.set()
        await asyncio.gather(*(call.result for call in (first, *flood, *others)))
    second = recorder.flushed[1]
    assert second.count(1) == len(others)
    assert sum(second) == TURN_EVENTS + len(others)
    assert sum(map(sum, recorder.flushed)) == MAX_FLUSH_EVENTS + 15_000 + len(others)


@pytest.mark.req("T2.4")
async def test_large_events_are_charged_by_bytes() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with committer(recorder, max_queued=1_000) as made:
        made.submit(call := submission(1, size=600 * BYTES_AN_EVENT))
        with pytest.raises(OverloadedError):
            made.submit(submission(1, size=600 * BYTES_AN_EVENT))
        made.submit(light := submission(400))
        recorder.gate.set()
        await asyncio.gather(call.result, light.result)


@pytest.mark.req("T2.4")
async def test_growing_submission_is_bounded() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with committer(recorder, max_queued=100) as made:
        made.submit(first := submission())
        await eventually(lambda: recorder.flushed)
        made.submit(growing := submission())
        for _ in range(40):
            made.extend(growing, capture_pb2.Event(), BYTES_AN_EVENT * 2)
        assert (len(growing), len(growing.rows), growing.cost) == (41, 41, 80)
        with pytest.raises(OverloadedError):
            made.extend(growing, capture_pb2.Event(), 20 * BYTES_AN_EVENT)
        assert (len(growing), len(growing.rows), growing.cost) == (41, 41, 80)
        recorder.gate.set()
        assert (await growing.result).rows == 41
        await first.result
        made.submit(after := submission(100))
        await after.result


@pytest.mark.req("T7.3", "T2.4")
async def test_hanging_flush_times_out_and_frees_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(committer_module, "FLUSH_SECONDS", 0.05)
    recorder = Recorder()
    recorder.gate.clear()
    async with committer(recorder, max_queued=10) as made:
        made.submit(call := submission(10))
        with pytest.raises(UnavailableError):
            await call.result
        recorder.gate.set()
        await eventually(lambda: submitted(made, 10))


def submitted(made: Committer, events: int) -> bool:
    try:
        made.submit(submission(events))
    except OverloadedError:
        return False
    return True
