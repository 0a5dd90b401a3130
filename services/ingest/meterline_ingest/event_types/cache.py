"""Event types, from memory where possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from meterline.remembered.book import CachedBook

from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.event_types.store import EventTypeRepository

# After this long, the other replicas see a type that was put on one.
TYPES_SECONDS = 2.0


class TypeRegistry:
    """All event types. They are few, so all are cached, and read again only after a change."""

    def __init__(self, repository: EventTypeRepository, now: Callable[[], float] = time.monotonic) -> None:
        self._types = CachedBook(repository, TypeBook({}), max_age=TYPES_SECONDS, now=now)

    async def current(self, needed: Iterable[str] = ()) -> TypeBook:
        """The types; read again when they are old, or lack a `needed` one and were not read just now.

        Raises UnavailableError.
        """
        book = await self._types.current()
        if all(map(book.knows, needed)) or self._types.age <= TYPES_SECONDS / 20:
            return book
        return await self._types.latest()

    def forget(self) -> None:
        """To be called after a change by this process."""
        self._types.forget()
