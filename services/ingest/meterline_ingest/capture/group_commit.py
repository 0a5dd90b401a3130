"""Group commit: calls that arrive together share one transaction and one message.

Each call keeps its own batch, with its own trace, so that its lineage is independent of the other calls.
The queue is bounded and fair between tenants: a caller beyond its share gets OverloadedError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from meterline import tasks
from meterline.errors import InternalError, MeterlineError, OverloadedError, UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline_protos.ingest.v1 import capture_pb2

from meterline_ingest.capture.call import MAX_FLUSH_EVENTS, REJECTED_COST, Result, Submission, cost_of
from meterline_ingest.capture.rules.fair_queue import FairQueue
from meterline_ingest.event.bounds import MAX_COLUMN_ROWS

log = logger()

# Events of a tenant in a flush before the next tenant's turn. More would make flushes longer for small
# tenants; fewer would make more flushes.
TURN_EVENTS = 1_000
# A longer flush is abandoned: its callers are gone by then, or send again.
FLUSH_SECONDS = 10.0
# With fewer waiting events than this, a flush waits for more.
SMALL_EVENTS = 500
# If a window brings this many events, the flush waits for another window, up to MAX_WINDOWS.
BRISK_EVENTS = 4
MAX_WINDOWS = 8


Flush = Callable[[Sequence[Submission]], Coroutine[Any, Any, list[Result]]]
KeepFaulty = Callable[[Submission], Coroutine[Any, Any, int]]


class Committer:
    """Workers that take the waiting calls and flush them. `start` and `stop` may be called twice."""

    def __init__(
        self,
        flush: Flush,
        keep_faulty: KeepFaulty | None = None,
        *,
        workers: int,
        window: float,
        max_queued: int,
    ) -> None:
        """
        keep_faulty: quarantines what it can of a call that no flush can take, and returns how many events
        window: seconds that few events wait for more; up to MAX_WINDOWS times as long while more keep coming
        max_queued: events, or their equivalent in bytes, beyond which calls are refused
        """
        self._flush = flush
        self._keep_faulty = keep_faulty
        self._count = workers
        self._window = window
        self._queue: FairQueue[Submission] = FairQueue(
            max_queued, turn=TURN_EVENTS, guaranteed=MAX_COLUMN_ROWS
        )
        self._waiting = 0
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._small_flushes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._gathering = asyncio.Lock()
        self._workers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        if not self._workers:
            self._workers = [asyncio.create_task(self._work(), name="commit") for _ in range(self._count)]

    async def stop(self) -> None:
        """Flushes the queued calls, then ends the workers."""
        workers, self._workers = self._workers, []
        if workers:
            await self._idle.wait()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    def submit(self, submission: Submission) -> None:
        """Queues a call; its `result` is set when it is durable. Raises OverloadedError."""
        self._reserve(submission, len(submission), submission.cost)
        self._queue.add(submission.turn.flow, submission.turn.weight, submission)
        self._arrived.set()

    def extend(self, submission: Submission, event: capture_pb2.Event, size: int) -> None:
        """Adds an event of `size` bytes to a submission that no flush has taken. Raises OverloadedError."""
        grown = cost_of(submission.events + 1, submission.bytes + size)
        self._reserve(submission, 1, grown - submission.cost)
        submission.rows.append(event)
        submission.events += 1
        submission.bytes += size
        submission.cost = grown

    def _reserve(self, submission: Submission, events: int, cost: int) -> None:
        if not self._workers:
            raise UnavailableError("the service is stopping")
        if not self._queue.reserve(submission.turn.flow, submission.turn.weight, cost):
            metrics.CAPTURE_REFUSALS.labels("queue").inc()
            raise OverloadedError("the tenant's share of the capture queue", 0.1)
        self._idle.clear()
        self._waiting += events
        if self._waiting >= SMALL_EVENTS:
            self._changed.set()
        metrics.CAPTURE_QUEUE.set(self._queue.held)

    async def _work(self) -> None:
        while True:
            async with self._gathering:
                submissions = await self._gather()
            await self._finish(submissions)

    async def _gather(self) -> list[Submission]:
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        await self._wait_for_more()
        taken = self._queue.take(MAX_FLUSH_EVENTS)
        for submission in taken:
            submission.taken = True
            self._waiting -= len(submission)
        return taken

    async def _wait_for_more(self) -> None:
        """Lets few events wait for more: while they arrive fast, and while another small flush is under way.

        A flush costs milliseconds whatever its size, so many small flushes would leave no time for anything
        else. Many events, or the end of the small flush, end the wait.
        """
        loop = asyncio.get_running_loop()
        windows, before, deadline = 1, self._waiting, loop.time() + self._window
        while self._waiting < SMALL_EVENTS:
            left = deadline - loop.time()
            if left <= 0 and windows < MAX_WINDOWS and self._waiting - before >= BRISK_EVENTS:
                windows, before, deadline = windows + 1, self._waiting, loop.time() + self._window
                continue
            if left <= 0 and not self._small_flushes:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(left if left > 0 else None):
                    await self._changed.wait()
            except TimeoutError:
                pass  # the window is over

    async def _finish(self, submissions: Sequence[Submission]) -> None:
        small = sum(map(len, submissions)) < SMALL_EVENTS
        self._small_flushes += small
        try:
            await self._settle(submissions)
        except asyncio.CancelledError:
            _fail(submissions, UnavailableError("the service is stopping"))
            raise
        finally:
            self._small_flushes -= small
            self._changed.set()
            for submission in submissions:
                self._queue.release(submission.turn.flow, submission.cost)
            if not self._queue.held:
                self._idle.set()
            metrics.CAPTURE_QUEUE.set(self._queue.held)

    async def _settle(self, submissions: Sequence[Submission]) -> None:
        """Flushes calls and sets the result of each.

        When a flush of several calls fails, each half is flushed again until the faulty call is alone:
        callers share a transaction, but not each other's faults.
        """
        try:
            results = await self._bounded(submissions)
        except UnavailableError as error:
            # An unavailable dependency is unavailable for each call.
            _fail(submissions, error)
        except Exception as error:  # noqa: BLE001 - every error is returned or logged below
            if len(submissions) > 1:
                metrics.CAPTURE_SPLITS.inc()
                half = len(submissions) // 2
                await self._settle(submissions[:half])
                await self._settle(submissions[half:])
            elif isinstance(error, MeterlineError):
                _fail(submissions, error)
            else:
                self._charge(submissions[0], (REJECTED_COST - 1) * len(submissions[0]))
                _fail(submissions, await self._faulty(submissions[0], error))
        else:
            for submission, result in zip(submissions, results, strict=True):
                self._charge(submission, result.surcharge)
                if not submission.result.done():
                    submission.result.set_result(result)

    def _charge(self, submission: Submission, cost: int) -> None:
        """Charges what a call cost beyond its estimate: rejected events use up their own tenant's share."""
        self._queue.charge(submission.turn.flow, submission.turn.weight, cost)

    async def _bounded(self, submissions: Sequence[Submission]) -> list[Result]:
        """Raises UnavailableError when the flush takes too long. It may be durable nevertheless; the same
        events sent again are then duplicates."""
        work = asyncio.create_task(self._flush(submissions))
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.gather(work, return_exceptions=True)
            raise
        except TimeoutError as error:
            await tasks.end(work)
            raise UnavailableError("the database did not answer in time") from error

    async def _faulty(self, submission: Submission, fault: Exception) -> MeterlineError:
        """Quarantines a call that fails with an unexpected error; returns the error for its caller."""
        log.error(
            "capture.fault",
            tenant=submission.tenant_id,
            source=submission.origin.source,
            events=len(submission),
            exc_info=fault,
        )
        metrics.CAPTURE_FAULTS.inc()
        kept = 0
        if self._keep_faulty is not None:
            try:
                async with asyncio.timeout(FLUSH_SECONDS):
                    kept = await self._keep_faulty(submission)
            except Exception as error:
                log.error("capture.fault_not_kept", exc_info=error)
        return InternalError(f"a fault of the service; {kept} of {len(submission)} events are in quarantine")


def _fail(submissions: Sequence[Submission], error: Exception) -> None:
    for submission in submissions:
        if not submission.result.done():
            submission.result.set_exception(error)
            # Retrieves the exception, so that asyncio does not log it when the caller has gone.
            submission.result.exception()
