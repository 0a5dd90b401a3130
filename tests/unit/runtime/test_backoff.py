"""Pauses after failures grow up to a limit."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline import backoff

pytestmark = pytest.mark.req("T7.3")

FIRST, LONGEST = st.floats(0.001, 10), st.floats(0.001, 1_000)


def test_pauses_double_up_to_the_maximum() -> None:
    pause = backoff.doubling(first=0.5, longest=3.0)
    assert [pause(failures) for failures in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(st.integers(1, 10**9), FIRST, LONGEST)
def test_pauses_never_decrease_or_exceed_the_maximum(failures: int, first: float, longest: float) -> None:
    pause = backoff.doubling(first=first, longest=longest)
    assert 0 < pause(failures) <= pause(failures + 1) <= longest


@given(st.floats(0, 1_000), st.integers())
def test_jitter_leaves_at_least_half_of_the_pause(seconds: float, seed: int) -> None:
    assert seconds / 2 <= backoff.with_jitter(seconds, random.Random(seed)) <= seconds


def test_a_constant_pause_does_not_depend_on_failures() -> None:
    pause = backoff.constant(5.0)
    assert {pause(failures) for failures in (1, 2, 100)} == {5.0}
