"""Visible usage: queries like any reader until usage equals the accepted events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from grpc import aio
from meterline_protos.aggregate.v1 import usage_pb2, usage_pb2_grpc
from meterline_protos.common.v1 import types_pb2

from tests.bench import pace
from tests.bench.workload import DIMENSION, SCALE, Tally, region_name, tenant_name

COUNT_METER = "bench_count"
SUM_METER = "bench_sum"
# Limits concurrent queries, so that polling does not disturb the measurement.
_AT_ONCE = 8
PAUSE_SECONDS = 0.01
_NOTHING = (Decimal(0), 0)


@dataclass(frozen=True, slots=True)
class Visible:
    """at: the monotonic time when the last difference disappeared; differences: the remaining ones"""

    at: float
    differences: list[str] = field(default_factory=list)


class Usage:
    """Queries totals of both meters."""

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = usage_pb2_grpc.UsageServiceStub(channel)
        self._limit = asyncio.Semaphore(_AT_ONCE)

    async def total(self, tenant: str) -> tuple[int, int, int]:
        """The value of the count meter, and units and events of the sum meter, of one tenant."""
        count, summed = await asyncio.gather(
            self._values(tenant, COUNT_METER, by_group=False), self._values(tenant, SUM_METER, by_group=False)
        )
        value, events = summed.get("", _NOTHING)
        return int(count.get("", _NOTHING)[0]), units(value), events

    async def count(self, tenant: str) -> int:
        """The value of the count meter of one tenant."""
        found = await self._values(tenant, COUNT_METER, by_group=False)
        return int(found.get("", _NOTHING)[0])

    async def regions(self, tenant: str) -> dict[str, tuple[int, int]]:
        """(events, units) by region, of one tenant."""
        counts = await self._values(tenant, COUNT_METER, by_group=True)
        sums = await self._values(tenant, SUM_METER, by_group=True)
        return {
            region: (int(counts.get(region, _NOTHING)[0]), units(sums.get(region, _NOTHING)[0]))
            for region in counts.keys() | sums.keys()
        }

    async def _values(self, tenant: str, meter: str, *, by_group: bool) -> dict[str, tuple[Decimal, int]]:
        """(value, events) over all requested months, by group; the group of the total is empty."""
        found: dict[str, tuple[Decimal, int]] = {}
        async with self._limit:
            async for window in self._windows(tenant, meter, by_group=by_group):
                group = window.group[DIMENSION] if by_group else ""
                value, events = found.get(group, _NOTHING)
                found[group] = (value + Decimal(window.value), events + window.event_count)
        return found

    async def _windows(self, tenant: str, meter: str, *, by_group: bool) -> AsyncIterator[usage_pb2.Window]:
        now = datetime.now(UTC)
        request = usage_pb2.QueryUsageRequest(
            tenant_id=tenant, meter=meter, grain=types_pb2.GRAIN_MONTH, by_group=by_group, page_size=1_000
        )
        # A run may begin in one month and end in another.
        request.range.start_time.FromDatetime(now - timedelta(days=62))
        request.range.end_time.FromDatetime(now + timedelta(days=2))
        while True:
            answer = await self._stub.QueryUsage(request, timeout=20)
            for window in answer.windows:
                yield window
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token


def units(value: Decimal) -> int:
    """A value in units of the workload's scale. Raises ValueError if the value is finer."""
    scaled = value.scaleb(SCALE)
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{value} has more than {SCALE} decimals")
    return int(scaled)


class Watch:
    """Waits until usage equals a tally."""

    def __init__(self, usage: Usage, expected: Tally) -> None:
        self._usage = usage
        self._expected = expected
        self._pending: list[int] = []
        self._exceeded = False

    async def wait(self, last: int, seconds: float) -> Visible:
        """Polls tenant `last` until its usage is correct, and then the others, whose events were sent before.

        Gives up after `seconds`, or immediately if usage exceeds the accepted events: it never decreases.
        """
        self._pending = [last, *(tenant for tenant in range(len(self._expected.counts)) if tenant != last)]
        settled = await pace.poll(self._look, every=PAUSE_SECONDS, seconds=seconds)
        at = time.monotonic()
        if settled and not self._exceeded:
            return Visible(at)
        return Visible(at, await differences(self._usage, self._expected, self._pending))

    async def _look(self) -> bool:
        """Whether all usage is correct, or some is permanently wrong."""
        first, *others = self._pending
        if not await self._is_right(first):
            return self._exceeded
        right = await asyncio.gather(*(self._is_right(tenant) for tenant in others))
        self._pending = [tenant for tenant, done in zip(others, right, strict=True) if not done] or [first]
        return all(right) or self._exceeded

    async def _is_right(self, tenant: int) -> bool:
        events, sum_units = self._expected.of_tenant(tenant)
        found = await self._usage.total(tenant_name(tenant))
        self._exceeded |= any(
            seen > wanted for seen, wanted in zip(found, (events, sum_units, events), strict=True)
        )
        return found == (events, sum_units, events)


async def differences(usage: Usage, expected: Tally, tenants: Iterable[int]) -> list[str]:
    """The differences of usage by region of these tenants."""
    found = []
    for tenant in tenants:
        seen = await usage.regions(tenant_name(tenant))
        for region, (count, summed) in enumerate(
            zip(expected.counts[tenant].tolist(), expected.units[tenant].tolist(), strict=True)
        ):
            got = seen.pop(region_name(region), (0, 0))
            if got != (count, summed):
                wanted = f"{count} events and {summed} units were accepted"
                found.append(f"{tenant_name(tenant)}, {region_name(region)}: usage has {got}, {wanted}")
        found += [f"{tenant_name(tenant)}: unknown region {region}" for region in seen]
    return found
