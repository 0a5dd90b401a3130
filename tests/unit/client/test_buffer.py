"""The buffer is bounded and returns each row exactly once."""

import itertools
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_client.buffer import Buffer
from meterline_client.events import Row

from tests.support.client import ManualClock, rows

ROWS = rows(300)


class Bench:
    """A buffer of 25 rows in chunks of 10, and the chunks taken from it."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.clock = ManualClock()
        self.wakes = 0
        self.out: list[Row] = []
        self.buffer = Buffer(
            max_events=25,
            max_bytes=max_bytes,
            chunk_events=10,
            flush_interval=0.5,
            clock=self.clock,
            wake=self.wake,
        )

    def wake(self) -> None:
        self.wakes += 1

    def take(self) -> int:
        chunk = self.buffer.take(self.clock.monotonic())
        if chunk is None:
            return 0
        self.out += chunk.rows
        return len(chunk.rows)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 15)),
        st.tuples(st.sampled_from(["take", "seal", "wait"]), st.just(1)),
    ),
    max_size=40,
)


@pytest.mark.req("T1.3", "T7.1")
@settings(deadline=None)
@given(steps)
def test_every_row_is_taken_once_or_counted_as_dropped(script: list[tuple[str, int]]) -> None:
    bench = Bench()
    fresh = itertools.cycle(ROWS)
    added = 0
    for what, times in script:
        for _ in range(times):
            if what == "add":
                bench.buffer.add(next(fresh), 1)
                added += 1
            elif what == "take":
                bench.take()
            elif what == "seal":
                bench.buffer.seal()
            else:
                bench.clock.advance(0.5)
            assert bench.buffer.events <= 25
    overflow = bench.buffer.take_overflow()
    bench.buffer.seal()
    while bench.take():
        assert len(bench.out) <= added

    assert bench.buffer.recorded == added
    assert len(overflow) == bench.buffer.dropped
    assert len(bench.out) + bench.buffer.dropped == added
    assert bench.buffer.events == 0
    assert bench.buffer.level == 0


@pytest.mark.req("T7.1")
def test_buffer_is_bounded_in_bytes() -> None:
    bench = Bench(max_bytes=1_000)

    for row in ROWS[:10]:
        bench.buffer.add(row, 400)

    assert bench.buffer.events == 3
    assert bench.buffer.dropped == 7


@pytest.mark.req("T7.1")
def test_dropped_rows_are_kept_for_reporting_within_bounds() -> None:
    bench = Bench()

    for row in itertools.islice(itertools.cycle(ROWS), 5_025):
        bench.buffer.add(row, 1)

    assert bench.buffer.dropped == 5_000
    assert len(bench.buffer.take_overflow()) == 1_000
    assert bench.buffer.take_overflow() == []


@pytest.mark.req("T1.3")
def test_chunk_is_ready_when_full_or_old() -> None:
    bench = Bench()
    assert bench.buffer.due() is None

    for row in ROWS[:12]:
        bench.buffer.add(row, 1)

    assert (bench.take(), bench.take()) == (10, 0)
    due = bench.buffer.due()
    assert due == bench.clock.monotonic() + 0.5
    bench.clock.advance(0.499)
    assert bench.take() == 0
    bench.clock.advance(0.001)
    assert bench.take() == 2


@pytest.mark.req("T1.3")
def test_sealing_makes_an_open_chunk_ready() -> None:
    bench = Bench()
    assert bench.buffer.seal() == 0
    bench.buffer.add(ROWS[0], 1)

    assert bench.buffer.oldest() == 1
    assert bench.buffer.seal() == bench.buffer.seal() == 1
    assert bench.take() == 1
    assert bench.buffer.oldest() == 2


@pytest.mark.req("T7.1")
def test_buffer_wakes_delivery_only_for_new_work() -> None:
    bench = Bench()

    for row in ROWS[:100]:
        bench.buffer.add(row, 1)

    # The first row of each of three chunks, two full chunks, and the first dropped row.
    assert bench.wakes == 6


@pytest.mark.req("T7.1")
def test_closed_buffer_accepts_no_rows() -> None:
    bench = Bench()
    bench.buffer.close()

    with pytest.raises(RuntimeError, match="closed"):
        bench.buffer.add(ROWS[0], 1)
    assert bench.buffer.recorded == 0


@pytest.mark.req("T7.1")
def test_threads_add_and_take_concurrently() -> None:
    bench = Bench()

    def write() -> None:
        for row in ROWS * 5:
            bench.buffer.add(row, 1)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        bench.take()
    bench.buffer.seal()
    while bench.take():
        pass

    assert len(bench.out) + bench.buffer.dropped == bench.buffer.recorded == 4 * 5 * len(ROWS)


@pytest.mark.req("T7.1")
def test_reentrant_add_does_not_deadlock() -> None:
    # As in a signal handler that interrupts the thread within `add`.
    bench = Bench()
    with bench.buffer._lock:
        bench.buffer.add(ROWS[0], 1)

    assert bench.buffer.events == 1
