"""A loop repeats its step until it is stopped, also after errors of the step."""

from __future__ import annotations

import asyncio
import math

import pytest
from meterline import backoff
from meterline.errors import UnavailableError
from meterline.tasks import Loop, every
from structlog.testing import capture_logs

pytestmark = pytest.mark.req("T7.3")

AT_ONCE = backoff.constant(0.0)


class Steps:
    """A step that counts its calls, and returns or raises the given outcomes; the last one repeatedly."""

    def __init__(self, *outcomes: float | Exception) -> None:
        self.outcomes = outcomes
        self.count = 0
        self._reached = asyncio.Condition()

    async def __call__(self) -> float:
        outcome = self.outcomes[min(self.count, len(self.outcomes) - 1)]
        self.count += 1
        async with self._reached:
            self._reached.notify_all()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(10), self._reached:
            await self._reached.wait_for(lambda: self.count >= count)


async def test_step_is_repeated_after_the_returned_seconds() -> None:
    steps = Steps(0.0, 0.0, math.inf)
    loop = Loop("test", steps)
    await loop.start()
    await steps.reach(3)
    await loop.stop()
    assert steps.count == 3


async def test_waking_ends_the_wait() -> None:
    steps = Steps(math.inf)
    loop = Loop("test", steps, first=math.inf)
    await loop.start()
    for count in (1, 2):
        loop.wake()
        await steps.reach(count)
    await loop.stop()


async def test_waking_during_a_step_repeats_it_immediately() -> None:
    loop: Loop
    steps = Steps(math.inf)

    async def step() -> float:
        if not steps.count:
            loop.wake()
        return await steps()

    loop = Loop("test", step)
    await loop.start()
    await steps.reach(2)
    await loop.stop()
    assert steps.count == 2


@pytest.mark.parametrize(
    ("failure", "level"), [(UnavailableError("away"), "warning"), (ValueError("wrong"), "error")]
)
async def test_failed_step_is_logged_and_repeated(failure: Exception, level: str) -> None:
    steps = Steps(failure, math.inf)
    loop = Loop("test", steps, retry=AT_ONCE)
    with capture_logs() as logs:
        await loop.start()
        await steps.reach(2)
        await loop.stop()
    assert [(entry["event"], entry["loop"], entry["log_level"]) for entry in logs] == [
        ("loop.failed", "test", level)
    ]


async def test_pause_depends_on_consecutive_failures() -> None:
    failure = UnavailableError("away")
    steps = Steps(failure, failure, 0.0, failure, math.inf)
    asked: list[int] = []

    def retry(failures: int) -> float:
        asked.append(failures)
        return 0.0

    loop = Loop("test", steps, retry=retry)
    await loop.start()
    await steps.reach(5)
    await loop.stop()
    assert asked == [1, 2, 1]


async def test_waking_does_not_shorten_the_pause_after_a_failure() -> None:
    steps = Steps(UnavailableError("away"))
    loop = Loop("test", steps, retry=backoff.constant(3_600))
    await loop.start()
    await steps.reach(1)
    loop.wake()
    for _ in range(20):
        await asyncio.sleep(0)
    await loop.stop()
    assert steps.count == 1


async def test_shielded_work_finishes_during_stop() -> None:
    begun, finish, finished = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        begun.set()
        await finish.wait()
        finished.append(True)

    async def step() -> float:
        task = asyncio.ensure_future(work())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await task
            raise
        return math.inf

    loop = Loop("test", step, grace=None)
    await loop.start()
    await begun.wait()
    stopping = asyncio.create_task(loop.stop())
    await asyncio.sleep(0)
    finish.set()
    await stopping
    assert finished == [True]


@pytest.mark.parametrize("fails", [True, False])
async def test_loop_ends_after_a_step_that_swallows_its_cancellation(fails: bool) -> None:
    begun, finish, count = asyncio.Event(), asyncio.Event(), 0

    async def step() -> float:
        nonlocal count
        count += 1
        begun.set()
        try:
            await finish.wait()
        except asyncio.CancelledError:
            if fails:
                raise ValueError("wrong") from None
        return 0.0

    loop = Loop("test", step, retry=AT_ONCE, grace=None)
    await loop.start()
    await begun.wait()
    async with asyncio.timeout(10):
        await loop.stop()
    assert count == 1


async def test_repeated_start_and_stop_are_harmless() -> None:
    steps = Steps(math.inf)
    loop = Loop("test", steps)
    await loop.stop()
    await loop.start()
    await loop.start()
    await steps.reach(1)
    await loop.stop()
    await loop.stop()
    assert (loop.running, steps.count) == (False, 1)


async def test_periodic_work_waits_before_each_run() -> None:
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    loop = every(0.01, "test", work)
    await loop.start()
    assert not done.is_set()
    async with asyncio.timeout(10):
        await done.wait()
    await loop.stop()
