"""Many keys at once: from memory where possible, and one question for all others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

from meterline.remembered.answers import Answers

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lookup(Generic[K, V]):
    """Answers of a source that may lack a key. That it lacks one is remembered as well.

    Absences have a memory of their own: callers with made-up keys decide how many there are, and must not
    push answers out.
    """

    def __init__(
        self,
        ask: Callable[[Collection[K]], Awaitable[Mapping[K, V]]],
        *,
        absent: Answers[K, bool],
        known: Answers[K, V] | None = None,
    ) -> None:
        """
        ask: answers those of the keys that the source has
        absent: the memory of keys that it lacks
        known: the memory of its answers; None: `ask` or the caller remembers them
        """
        self._ask = ask
        self._absent = absent
        self._known = known

    async def find_many(self, keys: Collection[K]) -> dict[K, V]:
        """Those that the source has. Raises what `ask` raises.

        keys: each once; a key that is named twice is asked for twice
        """
        found = self._known.get_many(keys) if self._known is not None else {}
        if len(found) == len(keys):
            return found
        missing = [key for key in keys if key not in found]
        absent = self._absent.get_many(missing)
        if len(absent) < len(missing):
            found |= await self._asked([key for key in missing if key not in absent])
        return found

    def forget(self, keys: Iterable[K]) -> None:
        """Call it after a change by this process, so that the next call sees the change."""
        for key in keys:
            self._absent.forget(key)
            if self._known is not None:
                self._known.forget(key)

    async def _asked(self, keys: Collection[K]) -> Mapping[K, V]:
        absence = self._absent.ask()
        question = self._known.ask() if self._known is not None else None
        found = await self._ask(keys)
        for key in keys:
            if key not in found:
                self._absent.keep(absence, key, True)
            elif self._known is not None and question is not None:
                self._known.keep(question, key, found[key])
        return found
