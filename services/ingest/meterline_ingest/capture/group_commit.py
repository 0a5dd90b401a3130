"""Group commit: calls that arrive together share one transaction and one message.

Each call keeps its own batch, with its own trace, so that lineage does not depend on who else was there.
The queue is bounded and fair between tenants: beyond their share of it callers are told to come back.
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

# What a tenant may have in a flush before it is the next one's turn. More would make flushes longer for
# those who have little; less would make more of them.
TURN_EVENTS = 1_000
# A flush that takes longer is given up: its callers are gone by then, or send again.
FLUSH_SECONDS = 10.0
# Fewer waiting events than this are worth a wait for company.
SMALL_EVENTS = 500
# While a window brings this many, the next one is waited for as well, up to so many windows.
BRISK_EVENTS = 4
MAX_WINDOWS = 8


Flush = Callable[[Sequence[Submission]], Coroutine[Any, Any, list[Result]]]
KeepFaulty = Callable[[Submission], Coroutine[Any, Any, int]]


class Committer:
    """Workers that take what has gathered and flush it. `start` and `stop` may be called twice."""

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
        keep_faulty: keeps what it can of a call that no flush can take, and tells how many events
        window: seconds that few events wait for company; a few times as long while more keep coming
        max_queued: events, or their like in bytes, beyond which is overload
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
        """Flushes what was accepted into the queue, then ends."""
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
        """Adds one more event of so many bytes to a submission that is not taken yet. Raises
        OverloadedError."""
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
        await self._company()
        taken = self._queue.take(MAX_FLUSH_EVENTS)
        for submission in taken:
            submission.taken = True
            self._waiting -= len(submission)
        return taken

    async def _company(self) -> None:
        """Lets few events wait: while they come briskly, and while other few are being flushed.

        A flush costs milliseconds whatever its size, so few events in many flushes would leave no time for
        anything else. Many events, or the end of the small flush, end the wait.
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
        """Flushes calls and gives each its result.

        Where a flush of several fails, halves of it are flushed until the call at fault is alone: callers
        share a transaction, not each other's faults.
        """
        try:
            results = await self._bounded(submissions)
        except UnavailableError as error:
            # What is away is away for each of them.
            _fail(submissions, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told or logged below
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
        """A call's cost is known once it was judged: a flood of what is rejected pays by its own share."""
        self._queue.charge(submission.turn.flow, submission.turn.weight, cost)

    async def _bounded(self, submissions: Sequence[Submission]) -> list[Result]:
        """Raises UnavailableError when it takes too long: perhaps it is durable all the same; then the same
        events sent again are duplicates."""
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
        """Keeps a call that cannot be flushed for a reason nobody thought of; what its caller is told."""
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
            # A caller that has gone away does not look; that is no fault.
            submission.result.exception()
