"""The workload has the configured shape, and its tally equals the sums of its events."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.workload import MADE_PER_SECOND, REGIONS, Events, Tally, Workload, generate

pytestmark = pytest.mark.req("T8.3")

NOW_MS = 1_750_000_000_000
WORKLOADS = st.builds(
    Workload,
    tenants=st.integers(1, 6),
    subjects=st.integers(1, 5),
    mixed=st.booleans(),
    spread_ms=st.sampled_from([0, 1, 50]),
    random_ids=st.booleans(),
    days=st.sampled_from([0, 30]),
)


Row = tuple[bytes, int, int, int, int, int]


def rows_of(events: Events) -> list[Row]:
    """(id, tenant, subject, region, units, time)"""
    return [
        (row.tobytes(), *rest)
        for row, *rest in zip(
            events.ids,
            events.tenants.tolist(),
            events.subjects.tolist(),
            events.regions.tolist(),
            events.units.tolist(),
            events.occurred_at_ms.tolist(),
            strict=True,
        )
    ]


@given(WORKLOADS, st.integers(1, 12), st.integers(4, 40), st.sampled_from([0.0, 0.1, 0.5]))
def test_tally_counts_every_distinct_event_once(
    workload: Workload, batches: int, batch: int, duplicates: float
) -> None:
    events = generate(workload, batches, batch, NOW_MS, seed=3, duplicates=duplicates)
    distinct = {row[0]: row for row in rows_of(events)}
    counts: Counter[tuple[int, int]] = Counter()
    units: Counter[tuple[int, int]] = Counter()
    for _, tenant, _, region, amount, _ in distinct.values():
        counts[tenant, region] += 1
        units[tenant, region] += amount
    tally = Tally.of(events.counted(), workload.tenants)
    for tenant in range(workload.tenants):
        for region in range(REGIONS):
            assert tally.counts[tenant, region] == counts[tenant, region]
            assert tally.units[tenant, region] == units[tenant, region]
    assert tally.total == len(distinct) == int(events.fresh.sum())


@given(WORKLOADS, st.integers(1, 12), st.integers(4, 40))
def test_repeated_event_is_equal_in_every_field(workload: Workload, batches: int, batch: int) -> None:
    events = generate(workload, batches, batch, NOW_MS, seed=4, duplicates=0.25)
    by_id: dict[bytes, set[Row]] = {}
    for row in rows_of(events):
        by_id.setdefault(row[0], set()).add(row)
    assert all(len(rows) == 1 for rows in by_id.values())
    assert batches * batch - len(by_id) == batches * int(batch * 0.25)


@given(WORKLOADS, st.integers(1, 12), st.integers(4, 40))
def test_prefix_of_batches_is_self_contained(workload: Workload, batches: int, batch: int) -> None:
    """A run that ends early has sent a prefix, which must contain an original for every repeated id."""
    events = generate(workload, batches, batch, NOW_MS, seed=5, duplicates=0.25)
    for sent in range(batches + 1):
        prefix = events[slice(0, sent * batch)]
        assert Tally.of(prefix.counted(), workload.tenants).total == len({row[0] for row in rows_of(prefix)})


@given(st.integers(1, 7), st.integers(1, 20), st.integers(1, 20))
def test_batches_have_one_tenant_each_in_rotation(tenants: int, batches: int, batch: int) -> None:
    events = generate(Workload(tenants=tenants), batches, batch, NOW_MS, seed=6)
    turns = events.tenants.reshape(batches, batch)
    assert (turns == turns[:, :1]).all()
    counts = np.bincount(turns[:, 0], minlength=tenants)
    assert counts.max() - counts.min() <= 1


def test_mixed_batch_has_many_tenants() -> None:
    events = generate(Workload(tenants=10, mixed=True), 4, 500, NOW_MS, seed=7)
    for batch in events.tenants.reshape(4, 500):
        assert len(set(batch.tolist())) == 10


def test_events_are_dated_at_a_steady_rate_until_now() -> None:
    events = generate(Workload(), 60, 5_000, NOW_MS, seed=8)
    assert (np.diff(events.made_at_ms) >= 0).all()
    assert NOW_MS - 1 <= events.made_at_ms[-1] <= NOW_MS
    span_s = (events.made_at_ms[-1] - events.made_at_ms[0]) / 1_000
    assert len(events) / span_s == pytest.approx(MADE_PER_SECOND, rel=0.01)
    assert (events.occurred_at_ms == events.made_at_ms).all()


def test_events_over_days_have_ordered_ids_and_unordered_times() -> None:
    events = generate(Workload(days=30), 60, 5_000, NOW_MS, seed=8)
    assert (events.made_at_ms == generate(Workload(), 60, 5_000, NOW_MS, seed=8).made_at_ms).all()
    days = (NOW_MS - events.occurred_at_ms) / 86_400_000
    assert 0 <= days.min() < 0.01
    assert 29.99 < days.max() <= 30
    # A tenth of the days has a tenth of the events, in the first batch and in all batches.
    for chosen in (days, days[:5_000]):
        counts, _ = np.histogram(chosen, 10, (0, 30))
        assert counts / len(chosen) == pytest.approx(0.1, abs=0.02)


def test_random_ids_are_uniformly_distributed() -> None:
    events = generate(Workload(random_ids=True), 60, 5_000, NOW_MS, seed=9)
    counts = np.bincount(events.ids[:, 0], minlength=256)
    assert counts / len(events) == pytest.approx(1 / 256, rel=0.2)


def test_spread_ids_of_batches_interleave() -> None:
    events = generate(Workload(spread_ms=500), 60, 5_000, NOW_MS, seed=9)
    batches = events.made_at_ms.reshape(60, 5_000)
    assert (np.diff(batches, axis=1) >= 0).all()
    assert (batches[1:, 0] < batches[:-1, -1]).all()
    assert events.made_at_ms.max() <= NOW_MS


def test_tally_round_trips_through_json() -> None:
    tally = Tally.of(generate(Workload(tenants=3), 5, 20, NOW_MS, seed=1).counted(), 3)
    back = Tally.parse(tally.as_dict())
    assert (back.counts == tally.counts).all()
    assert (back.units == tally.units).all()
    doubled = tally + back
    assert doubled.total == 2 * tally.total
    assert doubled.of_tenant(1) == tuple(2 * each for each in tally.of_tenant(1))
