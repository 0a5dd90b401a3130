"""Group commit: calls that arrive together share one transaction and one message.

Each call keeps its own batch, with its own trace, so that lineage does not depend on who else was there.
The queue is bounded: beyond it callers are told to come back.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from meterline.errors import MeterlineError, OverloadedError, UnavailableError
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline_protos.ingest.v1 import capture_pb2
from opentelemetry.trace import SpanContext

from meterline_ingest.domain.batches import BatchOrigin
from meterline_ingest.domain.columns import Columns
from meterline_ingest.domain.outcomes import Problem

log = logger()

# A flush takes as many events as the largest efficient batch; more would only delay the answers.
MAX_FLUSH_EVENTS = 5_000
MAX_FLUSH_BYTES = 4 << 20
# Fewer waiting events than this are worth a wait for company.
SMALL_EVENTS = 500
# While a window brings this many, the next one is waited for as well, up to so many windows.
BRISK_EVENTS = 4
MAX_WINDOWS = 4


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call came from. Times in microseconds since the Unix epoch.

    any_age: whether its events may be as old as they like
    import_id: of the import that it is part of
    """

    source: str
    received_at_us: int
    sent_at_us: int | None
    trace: SpanContext
    kind: BatchOrigin = BatchOrigin.REPORTED
    any_age: bool = False
    import_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """`problems` by row of the call; what is not in it was accepted. `batch_id` is empty when nothing was."""

    rows: int
    problems: dict[int, Problem]
    batch_id: str


@dataclass(slots=True, eq=False)
class Submission:
    """One call, or what a stream brought between two flushes. Either `rows` or `columns`."""

    origin: Origin
    tenant_id: str
    rows: Sequence[capture_pb2.Event] = ()
    columns: Columns | None = None
    bytes: int = 0
    taken: bool = False
    result: asyncio.Future[Result] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __len__(self) -> int:
        return len(self.rows) if self.columns is None else len(self.columns)


Flush = Callable[[Sequence[Submission]], Awaitable[list[Result]]]


class Committer:
    """Workers that take what has gathered and flush it. `start` and `stop` may be called twice."""

    def __init__(self, flush: Flush, *, workers: int, window: float, max_queued: int) -> None:
        """
        window: seconds that few events wait for company; a few times as long while more keep coming
        max_queued: events, beyond which is overload
        """
        self._flush = flush
        self._count = workers
        self._window = window
        self._max_queued = max_queued
        self._queue: deque[Submission] = deque()
        self._waiting = 0
        self._pending = 0
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
        self.reserve(len(submission))
        self._queue.append(submission)
        self._arrived.set()

    def reserve(self, events: int) -> None:
        """Makes room for events, in a new submission or added to one that is not taken yet."""
        if not self._workers:
            raise UnavailableError("the service is stopping")
        if self._pending + events > self._max_queued:
            raise OverloadedError("the capture queue", 0.1)
        self._pending += events
        self._idle.clear()
        self._waiting += events
        if self._waiting >= SMALL_EVENTS:
            self._changed.set()
        metrics.CAPTURE_QUEUE.set(self._pending)

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
        taken: list[Submission] = []
        events = size = 0
        while self._queue and events < MAX_FLUSH_EVENTS and size < MAX_FLUSH_BYTES:
            following = self._queue[0]
            if taken and events + len(following) > MAX_FLUSH_EVENTS:
                break
            following.taken = True
            taken.append(self._queue.popleft())
            events += len(following)
            size += following.bytes
        self._waiting -= events
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
        events = sum(map(len, submissions))
        small = events < SMALL_EVENTS
        self._small_flushes += small
        work = asyncio.ensure_future(self._flush(submissions))
        try:
            results = await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.gather(work, return_exceptions=True)
            _fail(submissions, UnavailableError("the service is stopping"))
            raise
        except MeterlineError as error:
            _fail(submissions, error)
        except Exception as error:
            log.exception("capture.flush_failed", error=str(error))
            _fail(submissions, MeterlineError("internal error"))
        else:
            for submission, result in zip(submissions, results, strict=True):
                if not submission.result.done():
                    submission.result.set_result(result)
        finally:
            self._small_flushes -= small
            self._changed.set()
            self._pending -= events
            if not self._pending:
                self._idle.set()
            metrics.CAPTURE_QUEUE.set(self._pending)


def _fail(submissions: Sequence[Submission], error: Exception) -> None:
    for submission in submissions:
        if not submission.result.done():
            submission.result.set_exception(error)
            # A caller that has gone away does not look; that is no fault.
            submission.result.exception()
