"""A cache of another service's answers: fresh for a short time, and used longer while that service is down.

The cached answers decide who is authenticated, so their ages are bounds: an answer's age counts from the
moment of its question, not of its arrival. That also holds for callers that join an older pending question.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cachetools import TTLCache

from meterline.deadline import time_left
from meterline.errors import OverloadedError, UnavailableError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

FRESH_SECONDS = 2.0
STALE_SECONDS = 30.0
# A key that the other service does not know is not looked up again for this long.
UNKNOWN_SECONDS = 1.0
_MOST_KEPT = 10_000
# Fewer than answers, because callers with made-up keys decide how many of these there are.
_MOST_UNKNOWN = 1_000
# Concurrent questions about keys that were never seen; this bounds the effect of a flood of made-up keys.
_MOST_QUESTIONS = 32
# Concurrent questions about known keys, counted apart; further ones wait for their turn.
_MOST_RENEWALS = 32
# A renewal that has waited this long for its turn counts as not answered.
_PATIENCE_SECONDS = 2.0


class Leases(Generic[K, V]):
    """`ask` answers None for what the other service does not know, and raises UnavailableError."""

    def __init__(
        self,
        what: str,
        ask: Callable[[K], Awaitable[V | None]],
        *,
        fresh: float = FRESH_SECONDS,
        stale: float = STALE_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        what: of which too many questions may be under way, for the error
        fresh: seconds that an answer is used without asking again
        stale: seconds that it is used when asking again fails
        """
        self._what = what
        self._ask = ask
        self._fresh = fresh
        self._stale = stale
        self._now = now
        # In the order of their questions, so that the first is the oldest; a plain dict, since every call
        # looks something up in it.
        self._kept: dict[K, tuple[V, float]] = {}
        self._unknown: TTLCache[K, None] = TTLCache(_MOST_UNKNOWN, UNKNOWN_SECONDS, now)
        self._questions: dict[K, asyncio.Task[tuple[V | None, float]]] = {}
        self._first_questions = 0
        self._renewals = asyncio.Semaphore(_MOST_RENEWALS)

    def known(self, key: K) -> V | None:
        """The answer, if there is a fresh one."""
        return self._within(key, self._fresh)

    def remembers(self, key: K) -> bool:
        """Whether there is an answer, however old."""
        return key in self._kept

    async def find(self, key: K) -> V | None:
        """The answer, asked for when there is no fresh one; None for what the other service does not know.

        Raises UnavailableError, and OverloadedError for what was never seen when too much of it is asked.
        """
        found = self.known(key)
        if found is not None or key in self._unknown:
            return found
        try:
            return await self._asked(key)
        except UnavailableError:
            stale = self._within(key, self._stale)
            if stale is None:
                raise
            return stale

    def _within(self, key: K, seconds: float) -> V | None:
        kept = self._kept.get(key)
        return kept[0] if kept is not None and self._now() - kept[1] < seconds else None

    async def _asked(self, key: K) -> V | None:
        """The answer to a question that is fresh, or was asked after the caller came."""
        came_at = self._now()
        while True:
            answer, asked_at = await self._shared(key)
            if asked_at >= came_at or self._now() - asked_at < self._fresh:
                return answer

    async def _shared(self, key: K) -> tuple[V | None, float]:
        """Callers that want the same share one question, and none of them can cancel it."""
        question = self._questions.get(key)
        if question is None:
            first = not self.remembers(key)
            if first and self._first_questions >= _MOST_QUESTIONS:
                raise OverloadedError(self._what, 0.1)
            self._first_questions += first
            question = self._questions[key] = asyncio.create_task(
                self._question(key) if first else self._renewal(key)
            )
            question.add_done_callback(lambda done: self._answered(key, first, done))
        return await asyncio.shield(question)

    async def _renewal(self, key: K) -> tuple[V | None, float]:
        """A question about what is known, in its turn. Raises UnavailableError when that does not come."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._renewals.acquire()
        except TimeoutError:
            raise UnavailableError(f"{self._what} takes too long") from None
        try:
            return await self._question(key)
        finally:
            self._renewals.release()

    async def _question(self, key: K) -> tuple[V | None, float]:
        """The answer, and when it was asked for."""
        # Not bound by the deadline of the caller who happened to be first.
        time_left.set(None)
        asked_at = self._now()
        answer = await self._ask(key)
        self._kept.pop(key, None)
        if answer is None:
            self._unknown[key] = None
        else:
            if len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = (answer, asked_at)
        return answer, asked_at

    def _answered(self, key: K, first: bool, question: asyncio.Task[tuple[V | None, float]]) -> None:
        del self._questions[key]
        self._first_questions -= first
        if not question.cancelled():
            question.exception()  # waiters get it; without waiters asyncio must not report it
