"""A cache of answers with a greatest age.

An answer's age counts from its question and not from its arrival, and an answer whose key was forgotten in
between is not kept: so the greatest age holds however slow the source is, and after any quiet time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakSet

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Question(Generic[K]):
    """One that is under way: when it was asked, and what has been forgotten since."""

    __slots__ = ("__weakref__", "asked_at", "forgotten")

    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at
        self.forgotten: set[K] = set()


def one(key: object, value: object) -> int:
    """The size of every answer where they are counted."""
    return 1


class Remembered(Generic[K, V]):
    """Answers by key, within bounds. A look costs one into a dictionary and one on the clock."""

    def __init__(
        self,
        seconds: float,
        *,
        most: int,
        size_of: Callable[[K, V], int] = one,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        seconds: the greatest age of an answer that is used
        most: what is kept, in the unit of `size_of`; beyond it the oldest go
        size_of: how much an answer takes, above 0; one that takes more than `most` is not kept
        now: a clock in seconds, from any moment
        """
        self._seconds = seconds
        self._most = most
        self._size_of = size_of
        self._now = now
        # In the order in which answers were kept, so that the first is about the oldest.
        self._kept: dict[K, tuple[V, float, int]] = {}
        self._held = 0
        self._under_way: WeakSet[Question[K]] = WeakSet()

    def get(self, key: K) -> V | None:
        """The answer; None without one that may still be used."""
        kept = self._kept.get(key)
        return kept[0] if kept is not None and self._now() < kept[1] else None

    def __contains__(self, key: K) -> bool:
        kept = self._kept.get(key)
        return kept is not None and self._now() < kept[1]

    def __len__(self) -> int:
        """How many are in memory, also those that are too old to be used."""
        return len(self._kept)

    def ask(self) -> Question[K]:
        """To be called before the source is asked, and given to `keep` with each answer."""
        question: Question[K] = Question(self._now())
        self._under_way.add(question)
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
        for question in self._under_way:
            question.forgotten.add(key)

    def _drop(self, key: K) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._held -= kept[2]

    def _make_room(self, size: int) -> None:
        """Also lets go of what is at the front and too old, so that idle keys do not stay in memory."""
        now = self._now()
        while self._kept:
            oldest = next(iter(self._kept))
            if self._held + size <= self._most and now < self._kept[oldest][1]:
                return
            self._drop(oldest)
