"""A bounded dictionary for frequent lookups: keeps recently used entries, without bookkeeping a lookup."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TwoGenerations(Generic[K, V]):
    """Holds at most 2 x `size`, and one entry. A full young generation becomes the old one.

    `cachetools.LRUCache` reorders on every lookup, which costs 20 times a plain dictionary's lookup; here a
    batch of lookups is one C loop. Values never change, so that they have no age (ADR 23).
    """

    def __init__(self, size: int, size_of: Callable[[K], int]) -> None:
        """
        size: bytes of a generation
        size_of: estimates the bytes of an entry, by its key
        """
        self._size = size
        self._size_of = size_of
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._held = 0

    def get_many(self, keys: Iterable[K]) -> list[V | None]:
        """Values in the order of `keys`, None where unknown."""
        keys = list(keys)
        values = list(map(self._young.get, keys))
        if self._old and None in values:
            for position, key in enumerate(keys):
                if values[position] is None and (value := self._old.get(key)) is not None:
                    values[position] = value
                    self.put(key, value)
        return values

    def put(self, key: K, value: V) -> None:
        if key not in self._young:
            if self._held >= self._size:
                self._old, self._young, self._held = self._young, {}, 0
            self._held += self._size_of(key)
        self._young[key] = value
