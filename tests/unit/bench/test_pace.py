"""Rates by time slice count every answer once, in the slice in which it arrived."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.pace import rates

pytestmark = pytest.mark.req("T8.3")

ANSWERS = st.lists(st.tuples(st.floats(1_000, 1_070), st.integers(0, 5_000)), max_size=50)


@given(ANSWERS)
def test_answer_counts_in_the_slice_of_its_arrival(answers: list[tuple[float, int]]) -> None:
    found = rates(answers, 1_000.0, 60.0, 10.0)
    assert len(found) == 6
    for at, rate in enumerate(found):
        begin, end = 1_000.0 + at * 10, 1_010.0 + at * 10
        # The end of the last slice belongs to it.
        inside = [n for when, n in answers if begin <= when < end or (at == 5 and when == end)]
        assert rate == pytest.approx(sum(inside) / 10)


def test_answers_after_the_last_whole_slice_are_not_counted() -> None:
    answers = [(5.0, 10), (14.0, 20), (24.9, 400)]
    assert rates(answers, 5.0, 24.0, 10.0) == [3.0, 40.0]
    assert rates(answers, 5.0, 9.0, 10.0) == []
    assert rates([], 5.0, 20.0, 10.0) == [0.0, 0.0]
