"""Answers by key, each with a greatest age.

An answer's age counts from its question and not from its arrival, and an answer whose key was forgotten in
between is not kept: so the greatest age holds however slow the source is, and after any quiet time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar
from weakref import WeakSet

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Question(Generic[K]):
    """A pending question: when it was asked, and which keys have been forgotten since."""

    __slots__ = ("__weakref__", "asked_at", "forgotten")

    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at
        self.forgotten: set[K] = set()


def one(key: object, value: object) -> int:
    """The size of every answer where answers are counted."""
    return 1


class Answers(Generic[K, V]):
    """Answers in memory, within bounds. A lookup costs one in a dictionary and one on the clock."""

    def __init__(
        self,
        seconds: float,
        *,
        most: int,
        stale: float | None = None,
        keeps_old: bool = False,
        size_of: Callable[[K, V], int] = one,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        seconds: the greatest age of an answer that `get` returns
        most: what is kept, in the unit of `size_of`; beyond it the oldest answers are dropped
        stale: the greatest age of an answer that `get_stale` returns; None: `seconds`
        keeps_old: answers that are too old are only dropped for lack of room, so `holds` knows their keys
        size_of: how much an answer takes, above 0; one that takes more than `most` is not kept
        now: a clock in seconds, from any moment
        """
        self._seconds = seconds
        self._more = (seconds if stale is None else stale) - seconds
        self._most = most
        self._keeps_old = keeps_old
        self._size_of = size_of
        self._now = now
        # Values with the end of their time and their size, in the order in which they were kept: the first is
        # about the oldest.
        self._kept: dict[K, tuple[V, float, int]] = {}
        self._held = 0
        self._pending: WeakSet[Question[K]] = WeakSet()

    def get(self, key: K) -> V | None:
        """The answer; None without one that is at most `seconds` old."""
        kept = self._kept.get(key)
        return kept[0] if kept is not None and self._now() < kept[1] else None

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """As `get`, for those of `keys` that have an answer. All are looked up at one moment."""
        kept_of, now = self._kept.get, self._now()
        return {key: kept[0] for key in keys if (kept := kept_of(key)) is not None and now < kept[1]}

    def get_stale(self, key: K) -> V | None:
        """The answer; None without one that is at most `stale` seconds old."""
        kept = self._kept.get(key)
        return kept[0] if kept is not None and self._now() < kept[1] + self._more else None

    def __contains__(self, key: K) -> bool:
        kept = self._kept.get(key)
        return kept is not None and self._now() < kept[1]

    def holds(self, key: K) -> bool:
        """Whether an answer is in memory, however old."""
        return key in self._kept

    def __len__(self) -> int:
        """How many are in memory, including those that are too old to be used."""
        return len(self._kept)

    def ask(self) -> Question[K]:
        """Call it before the source is asked, and pass the result to `keep` with each answer."""
        question: Question[K] = Question(self._now())
        self._pending.add(question)
        return question

    def keep(self, question: Question[K], key: K, value: V) -> None:
        """Remembers an answer, unless its key was forgotten meanwhile."""
        if key in question.forgotten:
            return
        self._drop(key)
        size = self._size_of(key, value)
        self._make_room(size)
        if size <= self._most:
            self._kept[key] = (value, question.asked_at + self._seconds, size)
            self._held += size

    def forget(self, key: K) -> None:
        """Drops a key's answer, and those of questions that were asked before now."""
        self._drop(key)
        for question in self._pending:
            question.forgotten.add(key)

    def expire(self) -> None:
        """Drops all that is too old to be used."""
        now = self._now() - self._more
        for key in [key for key, kept in self._kept.items() if now >= kept[1]]:
            self._drop(key)

    def clear(self) -> None:
        """As `forget`, for all keys that are in memory."""
        for key in list(self._kept):
            self.forget(key)

    def _drop(self, key: K) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._held -= kept[2]

    def _make_room(self, size: int) -> None:
        """Also drops what is first and too old, so that idle keys do not stay in memory."""
        now = self._now() - self._more
        while self._kept:
            oldest = next(iter(self._kept))
            if self._held + size <= self._most and (self._keeps_old or now < self._kept[oldest][1]):
                return
            self._drop(oldest)
