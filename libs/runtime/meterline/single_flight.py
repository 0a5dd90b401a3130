"""Looking something up in the database once, however many calls ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any, Generic, TypeVar

from meterline import tasks
from meterline.errors import UnavailableError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# A lookup takes a millisecond. A call that waits longer fails with UnavailableError.
LOOK_SECONDS = 2.0


class SingleFlight(Generic[K, V]):
    """Asks `look` for a key, unless it has been asked and has not answered yet."""

    def __init__(self, look: Callable[[K], Coroutine[Any, Any, V]]) -> None:
        self._look = look
        self._under_way: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """Raises UnavailableError when there is no answer in time, and what the look raises."""
        task = self.begin(key)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise UnavailableError("the database did not answer in time") from error

    def begin(self, key: K) -> asyncio.Task[V]:
        """The pending lookup, or a new one. A failure that no caller waits for is not reported."""
        task = self._under_way.get(key)
        if task is None:
            # In no call's context: one that ends, or whose deadline is near, must not fail the others.
            task = asyncio.create_task(self._bounded(key), context=Context())
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._end(key, done))
        return task

    async def stop(self) -> None:
        """Ends what is under way."""
        for task in list(self._under_way.values()):
            await tasks.end(task)

    async def _bounded(self, key: K) -> V:
        async with asyncio.timeout(LOOK_SECONDS):
            return await self._look(key)

    def _end(self, key: K, task: asyncio.Task[V]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # else it would be reported where all callers have gone away
