"""Room that tenants share: bounded as a whole, and for each of those that use it.

A tenant may hold its share by weight. The last part of the room is reserved for tenants that hold little, so
that a newcomer finds room while another floods.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# One in so many parts of the room is reserved for tenants that hold less than their share.
_RESERVE: Final = 8


class _Holder:
    __slots__ = ("held", "weight")

    def __init__(self) -> None:
        self.held = 0
        self.weight = 0


class Shares(Generic[K]):
    """What each tenant holds. A tenant that holds nothing is forgotten."""

    def __init__(self, room: int, *, guaranteed: int) -> None:
        """
        room: what all may hold together
        guaranteed: what a tenant may hold in any case while there is room
        """
        self._room = room
        self._guaranteed = guaranteed
        self._holders: dict[K, _Holder] = {}
        self._weights = 0
        self.held = 0

    def reserve(self, tenant: K, weight: int, cost: int) -> bool:
        """Reserves room for `cost`; returns whether this tenant had it."""
        known = self._holders.get(tenant)
        weights = self._weights + weight - (known.weight if known else 0)
        share = (self._room - self._room // _RESERVE) * weight // weights
        holds = known.held if known else 0
        if self.held + cost > self._room or holds + cost > max(share, self._guaranteed):
            return False
        if known is None:
            known = self._holders[tenant] = _Holder()
        known.weight = weight
        known.held += cost
        self.held += cost
        self._weights = weights
        return True

    def release(self, tenant: K, cost: int) -> None:
        known = self._holders[tenant]
        known.held -= cost
        self.held -= cost
        if not known.held:
            self._weights -= known.weight
            del self._holders[tenant]
