"""Waiting for usage ends when it equals the expected usage; a timeout reports the differences."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.usage import Usage, Watch
from tests.bench.workload import REGIONS, Tally, region_name, tenant_name

pytestmark = pytest.mark.req("X2")

TENANTS = 3
LAST = 2


def expected() -> Tally:
    cells = np.arange(TENANTS * REGIONS).reshape(TENANTS, REGIONS)
    return Tally(cells, cells * 10)


class FakeUsage(Usage):
    """Answers queries from `tally`, after a call of `grow`, which may change it."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.asked: list[str] = []

    def grow(self) -> None:
        """Changes nothing by default."""

    async def total(self, tenant: str) -> tuple[int, int, int]:
        self.grow()
        self.asked.append(tenant)
        events, summed = self.tally.of_tenant(_number(tenant))
        return events, summed, events

    async def regions(self, tenant: str) -> dict[str, tuple[int, int]]:
        counts, sums = self.tally.counts[_number(tenant)], self.tally.units[_number(tenant)]
        return {
            region_name(at): (int(counts[at]), int(sums[at]))
            for at in range(REGIONS)
            if counts[at] or sums[at]
        }


def _number(tenant: str) -> int:
    return [tenant_name(number) for number in range(TENANTS)].index(tenant)


async def test_correct_usage_ends_the_wait_immediately() -> None:
    usage = FakeUsage(expected())
    visible = await Watch(usage, expected()).wait(LAST, 5.0)
    assert visible.differences == []
    assert sorted(usage.asked) == [tenant_name(number) for number in range(TENANTS)]


async def test_watch_polls_the_last_tenant_before_the_others() -> None:
    class Late(FakeUsage):
        def grow(self) -> None:
            if len(self.asked) == 3:
                self.tally = expected()

    usage = Late(Tally.empty(TENANTS))
    visible = await Watch(usage, expected()).wait(LAST, 5.0)
    assert visible.differences == []
    assert usage.asked[:4] == [tenant_name(LAST)] * 4


async def test_missing_event_is_reported_by_region() -> None:
    tally = expected()
    tally.counts[1, 5] -= 1
    visible = await Watch(FakeUsage(tally), expected()).wait(LAST, 0.05)
    assert len(visible.differences) == 1
    assert tenant_name(1) in visible.differences[0]
    assert region_name(5) in visible.differences[0]


async def test_missing_unit_is_reported() -> None:
    tally = expected()
    tally.units[0, 7] -= 1
    assert len((await Watch(FakeUsage(tally), expected()).wait(LAST, 0.05)).differences) == 1


async def test_excess_event_ends_the_wait_immediately() -> None:
    tally = expected()
    tally.counts[LAST, 0] += 1
    usage = FakeUsage(tally)
    visible = await Watch(usage, expected()).wait(LAST, 60.0)
    assert len(visible.differences) == 1
    assert usage.asked == [tenant_name(LAST)]
