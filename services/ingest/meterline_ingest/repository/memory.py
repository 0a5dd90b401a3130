"""A bounded dictionary for hot lookups: what was used lately stays, without a bookkeeping step a look."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TwoGenerations(Generic[K, V]):
    """At most 2 x `size` entries. When the young generation is full it becomes the old one.

    `cachetools.LRUCache` reorders on every look, which costs 20 times a plain dictionary's look; here a
    batch of lookups is one C loop.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

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
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[key] = value
