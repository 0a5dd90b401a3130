"""A tenant's limit bounds its admitted events in every interval of time, over all replicas.

ADR 9 defines the bound. It holds with pauses, changes of the limit, and cancelled or concurrent calls.
"""

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


async def events_beyond_the_bound(steps: list[Step] | tuple[Step, ...], seed: int = 0) -> float:
    """The number of admitted events that exceed the bound; `seed` chooses how long each statement takes."""
    world = World(MemoryStore(seed))
    await world.run(steps)
    return float(world.beyond_the_bound())


@settings(deadline=None)
@given(scenarios(), seeds)
async def test_replicas_together_admit_no_more_than_the_bound(steps: list[Step], seed: int) -> None:
    assert await events_beyond_the_bound(steps, seed) == 0


@pytest.mark.parametrize("steps", [AFTER_QUIET, LARGE_LEASES])
async def test_bound_holds_in_scenarios_that_reveal_the_planted_bugs(steps: tuple[Step, ...]) -> None:
    for seed in range(20):
        assert await events_beyond_the_bound(steps, seed) == 0


async def test_use_of_outdated_limits_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: one call reads the limits while the others use the cached ones."""

    async def outdated_limits(registry: LimitRegistry) -> LimitBook:
        now = registry._now()
        if now - registry._as_of > LIMITS_SECONDS:
            last_read, registry._as_of = registry._as_of, now
            try:
                await registry._looks.get(None)
            except MeterlineError:
                registry._as_of = last_read
                raise
        return registry._book

    monkeypatch.setattr(LimitRegistry, "current", outdated_limits)
    assert await events_beyond_the_bound(AFTER_QUIET) > 0


async def test_use_of_tokens_leased_under_former_limits_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: tokens leased under a larger limit are used under a smaller one."""

    def keep_tokens(lease: Lease, new_limits: Limits) -> None:
        if new_limits != lease.limits:
            lease.limits, lease.short_until = new_limits, 0.0

    monkeypatch.setattr(Lease, "follow", keep_tokens)
    assert any([await events_beyond_the_bound(LARGE_LEASES, seed) > 0 for seed in range(20)])
