"""Ingest with one first-come queue for all tenants: a flood leaves no room for others."""

from __future__ import annotations

from collections import deque

from meterline_ingest.capture import group_commit
from meterline_ingest.capture.call import Submission
from meterline_ingest.capture.rules.fair_queue import FairQueue
from meterline_ingest.main import main


class _FirstCome(FairQueue[Submission]):
    def __init__(self, room: int, *, turn: int, guaranteed: int) -> None:
        super().__init__(room, turn=turn, guaranteed=guaranteed)
        self._limit, self._used = room, 0
        self._calls: deque[Submission] = deque()

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def held(self) -> int:
        return self._used

    def reserve(self, flow: int, weight: int, cost: int) -> bool:
        if self._used + cost > self._limit:
            return False
        self._used += cost
        return True

    def release(self, flow: int, cost: int) -> None:
        self._used -= cost

    def add(self, flow: int, weight: int, item: Submission) -> None:
        self._calls.append(item)

    def take(self, most: int) -> list[Submission]:
        taken = [self._calls.popleft()]
        while self._calls and sum(each.cost for each in taken) + self._calls[0].cost <= most:
            taken.append(self._calls.popleft())
        return taken


if __name__ == "__main__":
    vars(group_commit)["FairQueue"] = _FirstCome
    main()
