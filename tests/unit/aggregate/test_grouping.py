"""Grouping and sums by key: both implementations against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_aggregate.kinds.grouping import (
    LIMIT,
    UnsuitableError,
    group,
    magnitude,
    packed,
    unpacked,
    wide_sums,
)

pytestmark = pytest.mark.req("T6.1")

int64s = st.integers(-(2**63), 2**63 - 1)
# A narrow range of keys is grouped by a table, a wide range by sorting.
rows = st.one_of(
    st.tuples(st.just(8), st.lists(st.tuples(st.integers(0, 7), st.integers(-(2**40), 2**40)), max_size=50)),
    st.tuples(
        st.just(2**50),
        st.lists(
            st.tuples(st.sampled_from((0, 1, 2**49, 2**50 - 1)), st.integers(-(2**40), 2**40)), max_size=50
        ),
    ),
)


@given(rows)
@settings(deadline=None)
def test_groups_equal_those_of_a_dictionary(given_: tuple[int, list[tuple[int, int]]]) -> None:
    bound, pairs = given_
    expected: dict[int, list[int]] = {}
    for key, value in pairs:
        expected.setdefault(key, []).append(value)
    keys = np.array([key for key, _ in pairs], np.int64)
    values = np.array([value for _, value in pairs], np.int64)
    grouping = group(keys, bound)
    assert grouping.keys.tolist() == sorted(expected)
    assert grouping.counts().tolist() == [len(expected[key]) for key in sorted(expected)]
    assert grouping.sums(values).tolist() == [sum(expected[key]) for key in sorted(expected)]
    assert grouping.greatest(values).tolist() == [max(expected[key]) for key in sorted(expected)]


@given(st.lists(st.tuples(st.integers(0, 3), int64s), max_size=50))
@settings(deadline=None)
def test_sums_of_any_width_are_exact(pairs: list[tuple[int, int]]) -> None:
    keys = np.array([key for key, _ in pairs], np.int64)
    values = np.array([value for _, value in pairs], np.int64)
    grouping = group(keys, 4)
    expected = [sum(value for own, value in pairs if own == key) for key in grouping.keys.tolist()]
    assert wide_sums(grouping, values, LIMIT) == expected


@given(st.lists(int64s, max_size=50))
@settings(deadline=None)
def test_magnitude_is_an_upper_bound(values: list[int]) -> None:
    bound, true = magnitude(np.array(values, np.int64)), sum(map(abs, values))
    assert true <= bound <= true + len(values) * 2**21


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9), st.integers(0, 999)), max_size=20))
@settings(deadline=None)
def test_unpacked_keys_equal_the_packed_parts(parts: list[tuple[int, int, int]]) -> None:
    columns = np.array(parts, np.int64).reshape(-1, 3).T
    keys, bound = packed((columns[0], 100), (columns[1], 10), (columns[2], 1000))
    assert bound == 1_000_000
    assert [part.tolist() for part in unpacked(keys, 10, 1000)] == columns.tolist()
    order = np.argsort(keys, kind="stable").tolist()
    assert [parts[at] for at in order] == sorted(parts)


def test_too_wide_keys_are_refused() -> None:
    column = np.zeros(1, np.int64)
    packed((column, 2**31), (column, 2**31))
    with pytest.raises(UnsuitableError):
        packed((column, 2**31), (column, 2**31), (column, 2))
