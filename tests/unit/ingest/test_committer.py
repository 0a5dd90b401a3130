"""Group commit: who shares a flush, who is refused, and that nobody is left without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from meterline.errors import MeterlineError, OverloadedError, UnavailableError
from meterline_ingest.committer import MAX_FLUSH_EVENTS, Committer, Flush, Origin, Result, Submission
from meterline_protos.ingest.v1 import capture_pb2
from opentelemetry.trace import INVALID_SPAN_CONTEXT


def submission(events: int = 1) -> Submission:
    rows = [capture_pb2.Event() for _ in range(events)]
    return Submission(Origin("test", 0, None, INVALID_SPAN_CONTEXT), "acme", rows=rows)


def results(submissions: Sequence[Submission]) -> list[Result]:
    return [Result(len(each), {}, "batch") for each in submissions]


class Recorder:
    """A flush that notes what it was given, and waits to be let through when `gate` is closed."""

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
async def test_small_calls_share_a_flush_and_each_gets_its_own_result() -> None:
    recorder = Recorder()
    async with committer(recorder) as made:
        calls = [submission(size) for size in (1, 2, 3)]
        for call in calls:
            made.submit(call)
        answers = [await call.result for call in calls]
    assert recorder.flushed == [[1, 2, 3]]
    assert [answer.rows for answer in answers] == [1, 2, 3]


@pytest.mark.req("T2.1")
async def test_a_large_call_is_not_kept_waiting_for_company() -> None:
    recorder = Recorder()
    # A window that would outlast the test.
    async with committer(recorder, window=3_600.0) as made:
        made.submit(call := submission(1_000))
        await asyncio.wait_for(call.result, 10)


@pytest.mark.req("T2.4")
async def test_a_flush_is_bounded() -> None:
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
async def test_beyond_its_bound_the_queue_refuses_and_recovers() -> None:
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
    ("failure", "told"),
    [(UnavailableError("no database"), UnavailableError), (ValueError("a fault of ours"), MeterlineError)],
)
@pytest.mark.req("T7.3")
async def test_a_failed_flush_is_told_to_all_and_the_next_one_works(
    failure: Exception, told: type[Exception]
) -> None:
    recorder = Recorder()
    recorder.failure = failure
    async with committer(recorder) as made:
        calls = [submission(), submission()]
        for call in calls:
            made.submit(call)
        for call in calls:
            with pytest.raises(told):
                await call.result
        recorder.failure = None
        made.submit(call := submission())
        assert (await call.result).rows == 1


@pytest.mark.req("T7.3")
async def test_stopping_flushes_what_was_taken_in_and_refuses_what_comes_after() -> None:
    recorder = Recorder()
    made = Committer(recorder, workers=1, window=0.001, max_queued=100)
    await made.stop()  # before the start it does no harm
    await made.start()
    calls = [submission() for _ in range(5)]
    for call in calls:
        made.submit(call)
    await made.stop()
    assert [call.result.result().rows for call in calls] == [1] * 5
    with pytest.raises(UnavailableError):
        made.submit(submission())
    await made.stop()
