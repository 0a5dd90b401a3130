"""The thread that drives delivery."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from meterline_client.batches import Batch
from meterline_client.breaker import BreakerState
from meterline_client.clock import Clock
from meterline_client.delivery import Delivery, Mark
from meterline_client.retry import Failure
from meterline_client.tracing import CallTrace, NoCallTrace, Tracing
from meterline_client.transport import Answer, GrpcTransport
from meterline_client.window import Parcel

log = logging.getLogger(__name__)

# After a fault of the client itself: long enough not to burn the processor, short enough to recover.
_PAUSE_AFTER_FAULT = 1.0

# How long an ending process waits for the disk to take what was not sent, and for the connection to close.
_LONGEST_GOODBYE = 10.0
_LONGEST_HANG_UP = 2.0

_UNTRACED = NoCallTrace()

Build = Callable[[Callable[[Parcel], None]], Delivery]


@dataclass(slots=True, eq=False)
class _Flush:
    """A waiting caller. `leaving`: it stops waiting when the server is unavailable and the disk keeps all."""

    mark: Mark
    leaving: bool
    delivered: bool = False
    over: threading.Event = field(default_factory=threading.Event)


class Worker:
    """Runs `step` whenever it is due or woken, passes answers to it, and wakes flushes that are done.

    The parts that touch the disk are built by `build`, in the thread, so that no caller waits for them.
    """

    def __init__(
        self, build: Build, transport: GrpcTransport, tracing: Tracing | None, clock: Clock, timeout: float
    ) -> None:
        self._build = build
        self._transport = transport
        self._tracing = tracing
        self._clock = clock
        self._timeout = timeout
        self._delivery: Delivery | None = None
        self._changed = threading.Condition()
        self._woken = False
        self._looking = False
        self._stopping = False
        self._last: tuple[_Flush, float] | None = None
        self._over = False
        self._paused = False
        self._parked = False
        self._calls = 0
        self._answers: deque[tuple[Parcel, Answer]] = deque()
        self._flushes: list[_Flush] = []
        # A daemon, so that a process can end without asking; `Client` closes it at exit.
        self._thread = threading.Thread(target=self._run, name="meterline-client", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def breaker(self) -> BreakerState:
        return self._delivery.breaker if self._delivery else BreakerState.CLOSED

    def wake(self) -> None:
        """There may be something to do."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def flush(self, sequence: int, timeout: float | None) -> bool:
        """Whether all chunks up to `sequence` have their outcome within `timeout` seconds."""
        return self._wait_for(_Flush(Mark(sequence), leaving=False), timeout)

    def check_caller(self) -> None:
        """RuntimeError in this thread, which is where `on_outcome` runs."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("flush() and close() cannot be called in on_outcome: they would wait for it")

    def stop(self, sequence: int, timeout: float) -> bool:
        """Waits as `flush` does, but not for an unavailable server if the disk can keep unsent events.
        Then writes these to disk and ends the thread. True when every event had its outcome."""
        delivered = self._wait_for(_Flush(Mark(sequence), leaving=True), timeout)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            safe = self._changed.wait_for(lambda: self._over, _LONGEST_GOODBYE)
        if not safe:
            log.error("the disk does not answer: what was not sent may be lost")
        self._thread.join(_LONGEST_HANG_UP)
        return delivered

    def stop_here(self, sequence: int, timeout: float) -> bool:
        """`stop`, in the calling thread: for a worker that was not started because no thread can start, as
        while the interpreter ends."""
        flush = _Flush(Mark(sequence), leaving=True)
        self._flushes.append(flush)
        self._last = flush, self._clock.monotonic() + timeout
        self._run()
        return flush.delivered

    def pause(self, timeout: float) -> None:
        """Before a fork: waits until no call is on its way, because gRPC does not survive a fork in one."""
        if threading.current_thread() is self._thread:
            return
        with self._changed:
            self._paused = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over or (self._parked and not self._calls), timeout)

    def resume(self) -> None:
        """After it, in the parent."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            delivery = self._delivery = self._build(self._send)
            pause: float | None = 0.0
            while not self._wait(pause):
                pause = self._work(delivery)
            self._hand_over_answers(delivery)
            delivery.close()
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
                for flush in self._flushes:
                    flush.over.set()
            self._transport.close()

    def _wait(self, pause: float | None) -> bool:
        """Until there is something to do; True when that is to stop."""
        with self._changed:
            if self._last is not None:
                flush, until = self._last
                left = until - self._clock.monotonic()
                self._stopping = self._stopping or flush.over.is_set() or left <= 0
                pause = left if pause is None else min(pause, left)
            if not (self._woken or self._answers or self._stopping or self._paused):
                self._changed.wait(pause)
            while self._paused:
                self._parked = True
                self._changed.notify_all()
                self._changed.wait()
            self._parked = self._woken = False
            return self._stopping

    def _work(self, delivery: Delivery) -> float | None:
        try:
            self._hand_over_answers(delivery)
            if self._looking:
                self._looking = False
                delivery.look_for_left()
            pause = delivery.step()
        except Exception:
            log.exception("delivery failed; it goes on")
            pause = _PAUSE_AFTER_FAULT
        with self._changed:
            waiting = list(self._flushes)
        for flush in waiting:
            flush.delivered = delivery.is_delivered(flush.mark)
            if flush.delivered or (flush.leaving and delivery.may_leave):
                flush.over.set()
        return pause

    def _hand_over_answers(self, delivery: Delivery) -> None:
        while self._answers:
            delivery.answered(*self._answers.popleft())

    def _wait_for(self, flush: _Flush, timeout: float | None) -> bool:
        with self._changed:
            if self._over:
                return False
            self._flushes.append(flush)
            self._woken = self._looking = True
            self._changed.notify_all()
        flush.over.wait(timeout)
        with self._changed:
            self._flushes.remove(flush)
        return flush.delivered

    def _send(self, parcel: Parcel) -> None:
        batch: Batch = parcel.batch
        trace = self._tracing.start(batch, parcel.attempts) if self._tracing else _UNTRACED
        with self._changed:
            self._calls += 1
        self._transport.call(
            batch.payload,
            self._clock.now_us(),
            trace.metadata,
            self._timeout,
            partial(self._ended, parcel, trace),
        )

    def _ended(self, parcel: Parcel, trace: CallTrace, answer: Answer) -> None:
        if isinstance(answer, Failure):
            trace.end(answer.code.name, answer.message or answer.code.name)
        else:
            trace.end("OK", "")
        with self._changed:
            self._calls -= 1
            self._answers.append((parcel, answer))
            self._changed.notify_all()
