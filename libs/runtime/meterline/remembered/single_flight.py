"""A source is asked once for a key, however many callers want the answer at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any, Generic, TypeVar

from opentelemetry import context as trace_context

from meterline import tasks
from meterline.errors import OverloadedError, UnavailableError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# A query takes a millisecond. A call that waits longer fails with UnavailableError.
LOOK_SECONDS = 2.0
_RETRY_SECONDS = 0.1


class SingleFlight(Generic[K, V]):
    """Asks `ask` for a key, unless it has been asked and has not answered yet."""

    def __init__(
        self,
        ask: Callable[[K], Coroutine[Any, Any, V]],
        *,
        what: str = "the database",
        seconds: float | None = LOOK_SECONDS,
        most: int | None = None,
        counts: Callable[[K], bool] | None = None,
    ) -> None:
        """
        what: is asked, for errors
        seconds: that an answer may take; None: `ask` has limits of its own
        most: pending questions that count; None: any number
        counts: whether a question about the key counts; None: every one does
        """
        self._ask = ask
        self._what = what
        self._seconds = seconds
        self._most = most
        self._counts = counts
        self._counted: set[K] = set()
        self._pending: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, enough: Callable[[V], bool] | None = None) -> V:
        """The answer to a question that all callers who want the key share; none of them can cancel it.

        enough: whether an answer serves this caller. If a pending question began too early for it, the caller
            waits for the next one as well.

        Raises UnavailableError when there is no answer in time, OverloadedError when too many questions are
        pending, and what `ask` raises.
        """
        while True:
            question = self.begin(key)
            try:
                async with asyncio.timeout(self._seconds):
                    answer = await asyncio.shield(question)
            except TimeoutError as error:
                raise UnavailableError(f"{self._what} did not answer in time") from error
            if enough is None or enough(answer):
                return answer

    def begin(self, key: K) -> asyncio.Task[V]:
        """The pending question, or a new one. A failure that no caller waits for is not reported.

        Raises OverloadedError when too many are pending.
        """
        task = self._pending.get(key)
        if task is not None and task.done():
            # Its callback is still to run. To await it would not yield to the loop, so a caller to whom it is
            # not enough would repeat that for ever.
            self._end(key, task)
            task = None
        if task is None:
            self._count(key)
            # Outside the call's context except for its trace: the deadline and the rights of the caller that
            # happens to be first must not decide about the others.
            context = Context()
            context.run(trace_context.attach, trace_context.get_current())
            task = asyncio.create_task(self._bounded(key), context=context)
            self._pending[key] = task
            task.add_done_callback(lambda done: self._end(key, done))
        return task

    async def stop(self) -> None:
        """Ends what is pending."""
        for task in list(self._pending.values()):
            await tasks.end(task)

    def _count(self, key: K) -> None:
        if self._most is None or (self._counts is not None and not self._counts(key)):
            return
        if len(self._counted) >= self._most:
            raise OverloadedError(self._what, _RETRY_SECONDS)
        self._counted.add(key)

    async def _bounded(self, key: K) -> V:
        async with asyncio.timeout(self._seconds):
            return await self._ask(key)

    def _end(self, key: K, task: asyncio.Task[V]) -> None:
        if self._pending.get(key) is task:
            del self._pending[key]
            self._counted.discard(key)
        if not task.cancelled():
            task.exception()  # else it would be reported where all callers have gone away
