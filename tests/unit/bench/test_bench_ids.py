"""The benchmark's ids are ordered UUIDv7 as RFC 9562 defines them, or UUIDv4."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.ids import texts, uuid4, uuid7

pytestmark = pytest.mark.req("T8.3")

# 48 bits of milliseconds.
MOMENTS = st.lists(st.integers(0, (1 << 48) - 1), min_size=1, max_size=200)


def parsed(made_at_ms: list[int]) -> list[uuid.UUID]:
    ids = uuid7(np.array(made_at_ms, np.int64), np.random.default_rng(7))
    return [uuid.UUID(bytes=row.tobytes()) for row in ids]


@given(MOMENTS)
def test_ids_have_version_variant_and_time_of_uuid7(made_at_ms: list[int]) -> None:
    for moment, made in zip(made_at_ms, parsed(made_at_ms), strict=True):
        assert made.version == 7
        assert made.variant == uuid.RFC_4122
        assert made.int >> 80 == moment


@given(MOMENTS)
def test_ids_are_unique_and_ordered(made_at_ms: list[int]) -> None:
    made = parsed(sorted(made_at_ms))
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_stay_ordered_beyond_4096_in_a_millisecond() -> None:
    made = parsed([1_700_000_000_000] * 10_000)
    assert made == sorted(made)
    assert {each.int >> 80 for each in made} == {1_700_000_000_000}


def test_generators_make_different_ids_at_the_same_time() -> None:
    moments = np.full(1_000, 1_700_000_000_000)
    here, there = (uuid7(moments, np.random.default_rng(seed)).tobytes() for seed in (1, 2))
    rows = {data[at : at + 16] for data in (here, there) for at in range(0, len(data), 16)}
    assert len(rows) == 2_000


@given(st.integers(1, 200), st.integers(0, 1 << 32))
def test_random_ids_have_version_and_variant_of_uuid4(count: int, seed: int) -> None:
    rows = [uuid.UUID(bytes=row.tobytes()) for row in uuid4(count, np.random.default_rng(seed))]
    assert {(row.version, row.variant) for row in rows} == {(4, uuid.RFC_4122)}
    assert len(set(rows)) == count


def test_random_ids_vary_all_other_bits() -> None:
    ids = uuid4(200, np.random.default_rng(7))
    fixed = 0xF << 76 | 0b11 << 62
    numbers = [int.from_bytes(row.tobytes()) for row in ids]
    set_somewhere, set_everywhere = 0, (1 << 128) - 1
    for number in numbers:
        set_somewhere |= number
        set_everywhere &= number
    assert (set_somewhere ^ set_everywhere) | fixed == (1 << 128) - 1


@given(MOMENTS)
def test_id_texts_equal_those_of_the_uuid_module(made_at_ms: list[int]) -> None:
    ids = uuid7(np.array(made_at_ms, np.int64), np.random.default_rng(7))
    assert texts(ids) == [str(uuid.UUID(bytes=row.tobytes())) for row in ids]
