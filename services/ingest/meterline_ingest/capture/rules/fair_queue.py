"""A bounded queue that is fair between tenants: deficit round robin, by weight.

Tenants that wait take turns. At each turn a tenant may take out so much as its weight earns, and keeps what
it did not use while more of it waits; so over time each gets its share, whatever the sizes of its items,
and nobody waits longer than one turn of each other. Within a tenant the first in is the first out.

What an item costs may be known only once it was served: the rest is charged then. Who is charged more than it
has earned is in debt, and pays with its next turns, while others have theirs; also when nothing of it waits,
so that going away and coming back at once helps nobody. Debts are forgotten when nobody is left who waits for
anything.

The room for what waits is shared as well (`shares`), and what was taken out counts until it is released.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from meterline_ingest.capture.rules.shares import Shares


class Item(Protocol):
    """`cost` is at least 1. It may grow while the item waits."""

    @property
    def cost(self) -> int: ...


T = TypeVar("T", bound=Item)


class _Flow(Generic[T]):
    """What waits of one tenant, and what it has earned: less than 0 is a debt. It is forgotten when nothing
    waits and nothing is owed, and what it had earned with it. `charged`: since it got anything."""

    __slots__ = ("charged", "credit", "items", "number", "weight")

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: deque[T] = deque()
        self.weight = 1
        self.credit = 0
        self.charged = False


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
        self._waiting = 0

    def __bool__(self) -> bool:
        return self._waiting > 0

    @property
    def held(self) -> int:
        return self._shares.held

    def reserve(self, flow: int, weight: int, cost: int) -> bool:
        """Makes room for `cost`, or tells that there is none for this tenant."""
        return self._shares.reserve(flow, weight, cost)

    def release(self, flow: int, cost: int) -> None:
        """What was taken out is done with."""
        self._shares.release(flow, cost)
        if not self._shares.held:
            self._flows.clear()
            self._ring.clear()
            self._in_turn = False

    def charge(self, flow: int, weight: int, cost: int) -> None:
        """What was taken out, and is not released yet, cost so much more than was reckoned."""
        if cost > 0:
            known = self._flow(flow, weight)
            known.credit -= cost
            known.charged = True

    def add(self, flow: int, weight: int, item: T) -> None:
        """Queues an item that there was room reserved for."""
        self._flow(flow, weight).items.append(item)
        self._waiting += 1

    def _flow(self, number: int, weight: int) -> _Flow[T]:
        known = self._flows.get(number)
        if known is None:
            known = self._flows[number] = _Flow(number)
            self._ring.append(known)
        known.weight = weight
        return known

    def take(self, most: int) -> list[T]:
        """The items whose turn it is, for at most so much together, or one that costs more.

        Ends early when some tenant has got all it waited for, and a turn's worth is there: those who have
        little to do then do not wait for more of those who have much. Also ends when some tenant has got its
        turn that was charged for what it had before: this is likely to cost more than it seems as well, and
        others may come meanwhile.
        """
        taken: list[T] = []
        total, left, served, charged = 0, len(self._ring), False, False
        while self._waiting:
            flow = self._ring[0]
            waited = len(flow.items)
            if not self._in_turn:
                flow.credit += self._turn * flow.weight
                self._in_turn = True
            while flow.items and (cost := flow.items[0].cost) <= flow.credit:
                if taken and total + cost > most:
                    return taken
                taken.append(flow.items.popleft())
                self._waiting -= 1
                flow.credit -= cost
                total += cost
            self._end_turn(flow)
            if len(flow.items) < waited:
                served |= not flow.items
                charged |= flow.charged
                flow.charged = False
            left -= 1
            if left == 0:
                if charged or (served and total >= self._turn):
                    return taken
                left, served = len(self._ring), False
        return taken

    def _end_turn(self, flow: _Flow[T]) -> None:
        self._ring.popleft()
        self._in_turn = False
        if flow.items or flow.credit < 0:
            self._ring.append(flow)
        else:
            del self._flows[flow.number]
