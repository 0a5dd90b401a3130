"""A small table that is cached as a whole, and never used beyond its greatest age."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from meterline.remembered.single_flight import SingleFlight

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class Source(Protocol[B_co]):
    """Where the table is stored."""

    async def last_change(self) -> int:
        """A number that differs after every change."""

    async def book(self) -> B_co:
        """The whole table."""


class CachedBook(Generic[B]):
    """The whole table, read again only after a change.

    What `current` answers is at most `max_age` seconds old, counted from when the database was asked. That
    also holds for the first calls after a quiet time: however many come at once, they share one look and wait
    for it. While calls keep coming, the next look begins before that age is reached, so that none of them
    waits. Without the database nothing is answered once it is reached.
    """

    def __init__(
        self,
        source: Source[B],
        empty: B,
        *,
        max_age: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        empty: the table before the first look, never returned to a caller
        max_age: seconds
        now: a clock in seconds, from any moment
        """
        self._source = source
        self._now = now
        self._max_age = max_age
        self._renew_age = max_age * 3 / 4
        self._book = empty
        self._change = -1
        self._as_of = float("-inf")
        # Looks are numbered. Those before the first that counts may have missed a change of this process.
        self._last_look = 0
        self._last_look_at = float("-inf")
        self._first_that_counts = 0
        self._looks: SingleFlight[None, int] = SingleFlight(self._look)

    @property
    def age(self) -> float:
        """The age of the cached table in seconds; infinite before the first look and after `forget`."""
        return self._now() - self._as_of

    async def start(self) -> None:
        """Looks for the first time. Raises UnavailableError."""
        await self.current()

    async def stop(self) -> None:
        """Ends a look that is under way."""
        await self._looks.stop()

    async def current(self) -> B:
        """The table. Raises UnavailableError when it is too old and the database does not answer."""
        age = self._now() - self._as_of
        if age <= self._renew_age:
            return self._book
        if age <= self._max_age:
            self._looks.begin(None)
            return self._book
        if self._now() - self._last_look_at > self._max_age:
            # A look that is still under way is too old for this caller.
            return await self._looked_up(self._last_look + 1)
        return await self._looked_up(self._first_that_counts)

    async def latest(self) -> B:
        """The table as it is stored now. Raises UnavailableError."""
        return await self._looked_up(self._last_look + 1)

    def forget(self) -> None:
        """Call it after a change by this process, so that the next call sees the change."""
        self._first_that_counts = self._last_look + 1
        self._as_of = float("-inf")

    async def _looked_up(self, first: int) -> B:
        """The table by a look that is no earlier than the one of that number."""
        await self._looks.get(None, lambda number: number >= first)
        return self._book

    async def _look(self, _: None) -> int:
        self._last_look += 1
        number, asked_at = self._last_look, self._now()
        self._last_look_at = asked_at
        change = await self._source.last_change()
        if change != self._change:
            # What changes in between is only read twice.
            self._book, self._change = await self._source.book(), change
        if number >= self._first_that_counts:
            self._as_of = asked_at
        return number
