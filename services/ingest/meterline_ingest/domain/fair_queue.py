"""A bounded queue that is fair between tenants: deficit round robin, by weight.

Tenants that wait take turns. At each turn a tenant may take out so much as its weight earns, and keeps what
it did not use while more of it waits; so over time each gets its share, whatever the sizes of its items,
and nobody waits longer than one turn of each other. Within a tenant the first in is the first out.

Room is fair too: a tenant may hold its share of it, and the last part is left to those that hold little, so
that there is room for a newcomer while another floods. What was taken out counts until it is released.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, Protocol, TypeVar


class Item(Protocol):
    """`cost` is at least 1. It may grow while the item waits."""

    @property
    def cost(self) -> int: ...


T = TypeVar("T", bound=Item)

# Of the room, one in so many parts is left to tenants that hold less than their share.
_RESERVE: Final = 8


class _Flow(Generic[T]):
    """What one tenant has in the queue. It is forgotten when it holds nothing."""

    __slots__ = ("credit", "held", "items", "weight")

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.weight = 0
        self.held = 0
        self.credit = 0


class FairQueue(Generic[T]):
    """Flows are numbers of tenants."""

    def __init__(self, room: int, *, turn: int, guaranteed: int) -> None:
        """
        room: what all items may cost together
        turn: what a weight of 1 earns at each turn
        guaranteed: what a tenant may hold in any case while there is room
        """
        self._room = room
        self._turn = turn
        self._guaranteed = guaranteed
        self._flows: dict[int, _Flow[T]] = {}
        # Flows with items, the one whose turn it is first. It has had its earnings when `_in_turn`.
        self._ring: deque[_Flow[T]] = deque()
        self._in_turn = False
        self._weights = 0
        self.held = 0

    def __bool__(self) -> bool:
        return bool(self._ring)

    def reserve(self, flow: int, weight: int, cost: int) -> bool:
        """Makes room for `cost`, or tells that there is none for this tenant."""
        known = self._flows.get(flow)
        weights = self._weights + weight - (known.weight if known else 0)
        share = (self._room - self._room // _RESERVE) * weight // weights
        holds = known.held if known else 0
        if self.held + cost > self._room or holds + cost > max(share, self._guaranteed):
            return False
        if known is None:
            known = self._flows[flow] = _Flow()
        known.weight = weight
        known.held += cost
        self.held += cost
        self._weights = weights
        return True

    def add(self, flow: int, item: T) -> None:
        """Queues an item that there was room reserved for."""
        known = self._flows[flow]
        if not known.items:
            self._ring.append(known)
        known.items.append(item)

    def release(self, flow: int, cost: int) -> None:
        """What was taken out is done with."""
        known = self._flows[flow]
        known.held -= cost
        self.held -= cost
        if not known.held:
            self._weights -= known.weight
            del self._flows[flow]

    def take(self, most: int) -> list[T]:
        """The items whose turn it is, for at most so much together, or one that costs more.

        Ends early when some tenant has got all it waited for, and a turn's worth is there: those who have
        little to do then do not wait for more of those who have much.
        """
        taken: list[T] = []
        total, left, served = 0, len(self._ring), False
        while self._ring:
            flow = self._ring[0]
            if not self._in_turn:
                flow.credit += self._turn * flow.weight
                self._in_turn = True
            while flow.items and (cost := flow.items[0].cost) <= flow.credit:
                if taken and total + cost > most:
                    return taken
                taken.append(flow.items.popleft())
                flow.credit -= cost
                total += cost
            served |= self._end_turn(flow)
            left -= 1
            if left == 0:
                if served and total >= self._turn:
                    return taken
                left, served = len(self._ring), False
        return taken

    def _end_turn(self, flow: _Flow[T]) -> bool:
        """Whether nothing more of this tenant waits."""
        self._ring.popleft()
        self._in_turn = False
        if flow.items:
            self._ring.append(flow)
            return False
        flow.credit = 0
        return True
