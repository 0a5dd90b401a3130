"""Identity's answers about credentials: fresh for a short time, and used longer while identity is down.

The cached answers decide who is authenticated, so their ages are bounds: an answer's age counts from the
moment of its question, not of its arrival. That also holds for callers that join an older pending question.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from meterline.errors import UnavailableError
from meterline.remembered.answers import Answers
from meterline.remembered.single_flight import SingleFlight

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

FRESH_SECONDS = 2.0
STALE_SECONDS = 30.0
# A key that identity does not know is not looked up again for this long.
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


class CredentialCache(Generic[K, V]):
    """`ask` answers None for what identity does not know, and raises UnavailableError.

    `known` is the answer for a key, None without a fresh one; `remembers` is whether there is an answer,
    however old.
    """

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
        what: of which too many questions may be pending, for the error
        fresh: seconds that an answer is used without asking again
        stale: seconds that it is used when asking again fails
        """
        self._what = what
        self._ask = ask
        self._fresh = fresh
        self._now = now
        # Keys that were seen are known as such for as long as there is room: they are not held up by floods.
        self._known: Answers[K, V] = Answers(fresh, stale=stale, keeps_old=True, most=_MOST_KEPT, now=now)
        self._unknown: Answers[K, bool] = Answers(UNKNOWN_SECONDS, most=_MOST_UNKNOWN, now=now)
        self._questions: SingleFlight[K, tuple[V | None, float]] = SingleFlight(
            self._asked,
            what=what,
            seconds=None,
            most=_MOST_QUESTIONS,
            counts=lambda key: not self.remembers(key),
        )
        self._renewals = asyncio.Semaphore(_MOST_RENEWALS)
        # Bound to the memory itself, since every call looks something up in it.
        self.known = self._known.get
        self.remembers = self._known.holds

    async def find(self, key: K) -> V | None:
        """The answer, asked for when there is no fresh one; None for what identity does not know.

        Raises UnavailableError, and OverloadedError for what was never seen when too much of it is asked.
        """
        found = self.known(key)
        if found is not None or key in self._unknown:
            return found
        came_at = self._now()
        try:
            # The question must be fresh, or must have been asked after the caller came.
            answer, _ = await self._questions.get(
                key, lambda answer: answer[1] >= came_at or self._now() - answer[1] < self._fresh
            )
        except UnavailableError:
            stale = self._known.get_stale(key)
            if stale is None:
                raise
            return stale
        return answer

    async def _asked(self, key: K) -> tuple[V | None, float]:
        """The answer, and when it was asked for. A question about what is known waits for its turn.

        Raises UnavailableError when that does not come.
        """
        if not self.remembers(key):
            return await self._question(key)
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
        question, absence = self._known.ask(), self._unknown.ask()
        answer = await self._ask(key)
        if answer is None:
            self._known.forget(key)
            self._unknown.keep(absence, key, True)
        else:
            self._known.keep(question, key, answer)
        return answer, question.asked_at
