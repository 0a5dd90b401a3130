"""The memory of event ids against plain twins: within its capacity it forgets none, and suspects few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_ingest.capture.store import recently_seen
from meterline_ingest.capture.store.recently_seen import RecentlySeen
from meterline_ingest.event.columns import UUID_DTYPE, Ids, Int64s

from tests.bench.ids import uuid4, uuid7

pytestmark = pytest.mark.req("T1.2")

Key = tuple[int, int]
"""Number of an id, and tenant."""

CAPACITY_LOG2 = 7
CAPACITY = 1 << CAPACITY_LOG2


def to_ids(numbers: list[int]) -> Ids:
    return np.frombuffer(b"".join(number.to_bytes(16, "big") for number in numbers), UUID_DTYPE)


def add(seen: RecentlySeen, keys: list[Key]) -> tuple[list[bool], list[bool]]:
    tenants = np.array([tenant for _, tenant in keys], np.int64)
    suspects, repeated = seen.add(to_ids([number for number, _ in keys]), tenants)
    return suspects.tolist(), repeated.tolist()


keys = st.tuples(st.integers(0, 300) | st.integers(0, 2**128 - 1), st.integers(1, 3))


@given(st.lists(st.lists(keys, min_size=1, max_size=60), max_size=12))
@settings(max_examples=150)
def test_no_id_is_forgotten_within_the_capacity(batches: list[list[Key]]) -> None:
    seen = RecentlySeen(CAPACITY_LOG2)
    # All ids, each at its latest place.
    latest: list[Key] = []
    for batch in batches:
        remembered = set(latest[-CAPACITY:])
        suspects, repeated = add(seen, batch)
        for at, key in enumerate(batch):
            assert suspects[at] or key not in remembered
            assert repeated[at] == (key in batch[:at])
        latest = [key for key in latest if key not in batch] + list(dict.fromkeys(batch))


def test_ids_are_remembered_when_the_filters_change_places() -> None:
    seen = RecentlySeen(CAPACITY_LOG2)
    first = [(number, 1) for number in range(100)]
    add(seen, first)
    add(seen, [(number, 1) for number in range(100, 200)])
    suspects, _ = add(seen, first[-28:])
    assert all(suspects)


def test_memory_is_bounded_and_what_is_old_is_forgotten() -> None:
    seen = RecentlySeen(10)
    size = seen.size
    first = [(number, 1) for number in range(1_000)]
    add(seen, first)
    for start in range(1_000, 20_000, 500):
        add(seen, [(number, 1) for number in range(start, start + 500)])
    suspects, _ = add(seen, first)
    assert sum(suspects) < 20
    assert seen.size == size


@pytest.mark.parametrize("kind", ["in order", "random"])
def test_a_full_memory_suspects_few_new_ids(kind: str) -> None:
    """So few that most flushes of 5,000 new ids need no lookup."""
    rng = np.random.default_rng(7)
    count, capacity = 250_000, 1 << 16
    made_at = 1_700_000_000_000 + np.arange(count) // 300
    raw = uuid7(made_at, rng) if kind == "in order" else uuid4(count, rng)
    ids: Ids = raw.reshape(-1).view(UUID_DTYPE)
    seen, wrong = RecentlySeen(16), 0
    for start in range(0, count, 5_000):
        suspects, repeated = seen.add(ids[start : start + 5_000], np.ones(5_000, np.int64))
        assert not repeated.any()
        wrong += int(suspects.sum()) if start > capacity else 0
    assert wrong < 40


def test_tenants_with_one_id_are_told_apart() -> None:
    seen = RecentlySeen(10)
    assert add(seen, [(7, 1), (7, 2), (7, 1)]) == ([False] * 3, [False, False, True])
    suspects, _ = add(seen, [(7, tenant) for tenant in range(1, 6)])
    assert suspects[:2] == [True, True]
    assert not any(suspects[2:])


def test_ids_of_one_hash_are_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_hash(_: RecentlySeen, ids: Ids, tenant_ids: Int64s) -> recently_seen.Words:
        return np.full(len(ids), 99, np.uint64)

    monkeypatch.setattr(RecentlySeen, "_hashes", one_hash)
    assert add(RecentlySeen(10), [(1, 1), (2, 1), (1, 1), (1, 2)]) == (
        [False] * 4,
        [False, False, True, False],
    )
