"""A bounded queue that is fair between tenants: deficit round robin, by weight.

Waiting tenants take turns. At each turn a tenant may take out as much as its weight earns, and keeps the
unused rest while it has more waiting; so over time each gets its share, whatever the sizes of its items,
and none waits longer than one turn of each other. Within a tenant the order is first in, first out.

The cost of an item may be known only after it was served; the rest is charged then. A tenant that is charged
more than it has earned is in debt, and pays with its next turns while others have theirs. A debt remains when
nothing of the tenant waits, so that leaving and returning does not help. All debts are forgotten when the
queue holds nothing of any tenant.

The room is shared as well (`shares`); items that were taken out count until they are released.
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
    """The waiting items of one tenant and its credit; a negative credit is a debt. Both are forgotten when
    nothing waits and nothing is owed. `charged`: since it was last served."""

    __slots__ = ("charged", "credit", "items", "number", "weight")

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: deque[T] = deque()
        self.weight = 1
        self.credit = 0
        self.charged = False


class FairQueue(Generic[T]):
    """A flow is the number of a tenant."""

    def __init__(self, room: int, *, turn: int, guaranteed: int) -> None:
        """
        room, guaranteed: as in `Shares`, for the cost of items that wait or are not released yet
        turn: what a weight of 1 earns at each turn
        """
        self._shares: Shares[int] = Shares(room, guaranteed=guaranteed)
        self._turn = turn
        self._flows: dict[int, _Flow[T]] = {}
        # The first flow has the turn. When `_in_turn`, it has got its credit for this turn.
        self._ring: deque[_Flow[T]] = deque()
        self._in_turn = False
        self._waiting = 0

    def __bool__(self) -> bool:
        return self._waiting > 0

    @property
    def held(self) -> int:
        return self._shares.held

    def reserve(self, flow: int, weight: int, cost: int) -> bool:
        """Reserves room for `cost`; returns whether this tenant had it."""
        return self._shares.reserve(flow, weight, cost)

    def release(self, flow: int, cost: int) -> None:
        """Frees the room of items that were taken out."""
        self._shares.release(flow, cost)
        if not self._shares.held:
            self._flows.clear()
            self._ring.clear()
            self._in_turn = False

    def charge(self, flow: int, weight: int, cost: int) -> None:
        """Charges `cost` in addition for items that were taken out and are not released yet."""
        if cost > 0:
            known = self._flow(flow, weight)
            known.credit -= cost
            known.charged = True

    def add(self, flow: int, weight: int, item: T) -> None:
        """Queues an item whose room is reserved."""
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
        """Takes the items whose turn it is: `most` in cost together, or one item that costs more.

        Ends early when some tenant has got all that it waited for and a turn's worth is taken: small tenants
        then do not wait for more items of large ones. Also ends after the turn of a tenant that was charged
        for earlier items: the new ones are likely to cost more than they seem as well, and others may come
        meanwhile.
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
