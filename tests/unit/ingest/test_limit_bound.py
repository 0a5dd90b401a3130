"""The bound of ADR 9 holds in every interval, with pauses, limit changes, cancelled and concurrent calls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.errors import MeterlineError
from meterline_ingest.rate_limits.cache import LIMITS_SECONDS, LimitRegistry
from meterline_ingest.rate_limits.rules.lease import Lease
from meterline_ingest.rate_limits.rules.limits import LimitBook, Limits

from tests.support.limit_scenarios import AFTER_QUIET, LARGE_LEASES, scenarios
from tests.support.limit_world import MemoryStore, Step, World

pytestmark = pytest.mark.req("T4.2")

seeds = st.integers(0, 1_000)


async def beyond_the_bound(steps: list[Step] | tuple[Step, ...], seed: int = 0) -> float:
    world = World(MemoryStore(seed))
    await world.run(steps)
    return float(world.beyond_the_bound())


@settings(deadline=None)
@given(scenarios(), seeds)
async def test_replicas_together_admit_no_more_than_the_bound(steps: list[Step], seed: int) -> None:
    assert await beyond_the_bound(steps, seed) == 0


@pytest.mark.parametrize("steps", [AFTER_QUIET, LARGE_LEASES])
async def test_the_bound_holds_where_planted_bugs_break_it(steps: tuple[Step, ...]) -> None:
    for seed in range(20):
        assert await beyond_the_bound(steps, seed) == 0


async def test_limits_of_any_age_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: one call reads the limits while the others use the cached ones."""

    async def current(self: LimitRegistry) -> LimitBook:
        now = self._now()
        if now - self._as_of > LIMITS_SECONDS:
            before, self._as_of = self._as_of, now
            try:
                await self._looks.get(None)
            except MeterlineError:
                self._as_of = before
                raise
        return self._book

    monkeypatch.setattr(LimitRegistry, "current", current)
    assert await beyond_the_bound(AFTER_QUIET) > 0


async def test_leases_of_replaced_limits_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: tokens leased under a larger limit are used under a smaller one."""

    def follow(self: Lease, limits: Limits) -> None:
        if limits != self.limits:
            self.limits, self.short_until = limits, 0.0

    monkeypatch.setattr(Lease, "follow", follow)
    assert any([await beyond_the_bound(LARGE_LEASES, seed) > 0 for seed in range(20)])
