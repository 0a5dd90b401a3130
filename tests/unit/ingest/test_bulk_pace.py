"""How many chunks a call begins before its deadline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from meterline.deadline import time_left
from meterline_ingest.corrections import correct_many

pytestmark = pytest.mark.req("T3.4")


class Passing:
    """A clock that advances by two seconds for every chunk."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Passing:
    clock = Passing()
    monkeypatch.setattr(correct_many, "time", clock)
    return clock


@pytest.fixture
def deadline(clock: Passing) -> Iterator[list[float | None]]:
    """When the call ends; None: never."""
    ends: list[float | None] = [None]
    token = time_left.set(lambda: None if ends[0] is None else ends[0] - clock.now)
    yield ends
    time_left.reset(token)


def chunks(clock: Passing, most: int) -> int:
    has_time = correct_many._pace()
    done = 0
    while done < most and has_time():
        clock.now += 2.0
        done += 1
    return done


@pytest.mark.parametrize(("seconds", "begun"), [(0.0, 1), (7.9, 1), (8.1, 2), (21.0, 8)])
def test_chunk_begins_only_with_enough_time_left(
    clock: Passing, deadline: list[float | None], seconds: float, begun: int
) -> None:
    deadline[0] = clock.now + seconds
    assert chunks(clock, 100) == begun


def test_without_a_deadline_all_chunks_are_processed(clock: Passing, deadline: list[float | None]) -> None:
    assert chunks(clock, 100) == 100
