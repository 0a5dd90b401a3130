"""A bounded queue that is fair between tenants: deficit round robin, by weight.

Tenants that wait take turns. At each turn a tenant may take out so much as its weight earns, and keeps what
it did not use while more of it waits; so over time each gets its share, whatever the sizes of its items,
and nobody waits longer than one turn of each other. Within a tenant the first in is the first out.

The room for what waits is shared as well (`shares`), and what was taken out counts until it is released.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from meterline_ingest.domain.shares import Shares


class Item(Protocol):
    """`cost` is at least 1. It may grow while the item waits."""

    @property
    def cost(self) -> int: ...


T = TypeVar("T", bound=Item)


class _Flow(Generic[T]):
    """What waits of one tenant. It is forgotten when that is nothing, and what it had earned with it."""

    __slots__ = ("credit", "items", "number", "weight")

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: deque[T] = deque()
        self.weight = 1
        self.credit = 0


class FairQueue(Generic[T]):
    """Flows are numbers of tenants."""

    def __init__(self, room: int, *, turn: int, guaranteed: int) -> None:
        """
        room, guaranteed: as in `Shares`, of the cost of what waits and what is not released yet
        turn: what a weight of 1 earns at each turn
        """
        self._shares: Shares[int] = Shares(room, guaranteed=guaranteed)
        self._turn = turn
        self._flows: dict[int, _Flow[T]] = {}
        # The flow whose turn it is comes first. It has had its earnings when `_in_turn`.
        self._ring: deque[_Flow[T]] = deque()
        self._in_turn = False

    def __bool__(self) -> bool:
        return bool(self._ring)

    @property
    def held(self) -> int:
        return self._shares.held

    def reserve(self, flow: int, weight: int, cost: int) -> bool:
        """Makes room for `cost`, or tells that there is none for this tenant."""
        return self._shares.reserve(flow, weight, cost)

    def release(self, flow: int, cost: int) -> None:
        """What was taken out is done with."""
        self._shares.release(flow, cost)

    def add(self, flow: int, weight: int, item: T) -> None:
        """Queues an item that there was room reserved for."""
        known = self._flows.get(flow)
        if known is None:
            known = self._flows[flow] = _Flow(flow)
            self._ring.append(known)
        known.weight = weight
        known.items.append(item)

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
        del self._flows[flow.number]
        return True
