"""Tasks that share a loop fairly, repeat their step, and end for certain."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, ParamSpec, TypeVar

from meterline import backoff
from meterline.errors import MeterlineError
from meterline.telemetry.logging import logger

log = logger()

P = ParamSpec("P")
T = TypeVar("T")

# After a failure, unless a loop knows better.
_RETRY: Final = backoff.constant(5.0)
# A health check that waits this long is not late.
_TURN_SECONDS: Final = 0.01


class Pace:
    """Yields the event loop during a long piece of work: `if pace.due: await pace.rest()`."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.perf_counter() + _TURN_SECONDS

    @property
    def due(self) -> bool:
        """Whether the work has had the loop for long enough."""
        return time.perf_counter() >= self._until

    async def rest(self) -> None:
        await asyncio.sleep(0)
        self._until = time.perf_counter() + _TURN_SECONDS


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a pure function in a thread, so that the loop goes on while it computes.

    For work whose size a caller chooses: it takes as long as before, and about 0.1 ms more. When the task is
    cancelled, the function still ends, and nobody gets its result.
    """
    return await asyncio.to_thread(function, *args, **kwargs)


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels `task` and waits until it has ended; its outcome, a failure too, is passed over.

    To cancel once is not enough: `asyncio.wait_for`, which client libraries use, loses a cancellation that
    comes as its work ends.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)
    if not task.cancelled():
        task.exception()  # else it would be reported as never looked at


async def finish(work: Awaitable[T]) -> T:
    """Awaits `work`, to its end even when the caller is cancelled; a second cancellation ends it.

    For work whose outcome must be known once it has begun, such as a commit: cut off in between, nobody knows
    whether it took place. Raises CancelledError, once `work` has ended, and what `work` raises.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


class Loop:
    """Repeats a step in a task of its own. `start` and `stop` may be called twice.

    A step that fails is logged and repeated; nothing ends the loop but `stop`.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], Awaitable[float]],
        *,
        first: float = 0.0,
        linger: float = 0.0,
        retry: backoff.Backoff = _RETRY,
        passing: tuple[type[Exception], ...] = (MeterlineError,),
        grace: float | None = 0.0,
    ) -> None:
        """
        name: of the task, and of the loop in the log
        step: answers the seconds until the next one; `math.inf` waits for `wake`
        first: seconds until the first one
        linger: seconds to wait after `wake`, so that one step serves several who call it
        retry: seconds until the next step after failures in a row; `wake` does not shorten them
        passing: failures that are expected to pass, and are logged as warnings; others are faults
        grace: seconds that a step may take to end once the loop is stopped; None: as long as it takes
        """
        self._name = name
        self._step = step
        self._first = first
        self._linger = linger
        self._retry = retry
        self._passing = passing
        self._grace = grace
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._task is not None

    def wake(self) -> None:
        """The next step begins now, or right after the one under way."""
        self._wake.set()

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Cancels the step under way; one that is in the middle of `finish` has `grace` for that."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=self._grace)
            await end(task)

    async def _run(self) -> None:
        pause, failures = self._first, 0
        # A step may lose its cancellation, or fail while it is stopped; either way it is the last.
        while self._task is asyncio.current_task():
            if failures:
                await asyncio.sleep(pause)
            else:
                await self._rest(pause)
            self._wake.clear()
            try:
                pause = await self._step()
                failures = 0
            except Exception as error:  # noqa: BLE001 - logged below, and repeated
                failures += 1
                pause = self._retry(failures)
                level = log.warning if isinstance(error, self._passing) else log.exception
                text = str(error) or type(error).__name__
                level("loop.failed", loop=self._name, error=text, retry_in=pause)

    async def _rest(self, seconds: float) -> None:
        """Until `seconds` are over, or somebody wakes the loop."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._linger)


def every(
    seconds: float, name: str, work: Callable[[], Awaitable[object]], *, first: float | None = None
) -> Loop:
    """Repeats `work` with so many seconds before each time; `first` before the first, if it is given."""

    async def step() -> float:
        await work()
        return seconds

    pause = seconds if first is None else first
    return Loop(name, step, first=pause, retry=backoff.constant(seconds))
