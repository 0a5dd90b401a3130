"""The life cycle of a timer, also with clocks that jump."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.errors import FailedPreconditionError, InvalidArgumentError
from meterline.ids import made_at_ms
from meterline_ingest.event_types.rules.types import TimerPolicy, WhenAbandoned
from meterline_ingest.timers.rules import (
    ABANDONED,
    FORGET_AFTER_US,
    Content,
    Timer,
    TimerState,
    event_id,
    start,
)

pytestmark = pytest.mark.req("T6.3")

SECOND = 1_000_000
NOW = 1_795_000_000 * SECOND
POLICY = TimerPolicy("seconds", 60, WhenAbandoned.COUNT_TO_HEARTBEAT)
CONTENT = Content("meter/1", "call", "u1", {"region": "eu"})


def started(started_us: int | None = None, now_us: int = NOW) -> Timer:
    return start(1, "t1", CONTENT, POLICY, started_us, now_us, 300 * SECOND)


def test_timer_measures_start_to_stop_in_microseconds() -> None:
    stopped = started().stop(None, NOW + 90 * SECOND + 1, 0)
    assert (stopped.state, stopped.duration_us) == (TimerState.STOPPING, 90 * SECOND + 1)
    assert stopped.settled(NOW).state is TimerState.STOPPED


def test_repeated_stop_changes_nothing() -> None:
    stopped = started().stop(None, NOW + SECOND, 0)
    assert stopped.stop(NOW + 5 * SECOND, NOW + 9 * SECOND, 0) is stopped
    settled = stopped.settled(NOW)
    assert settled.stop(None, NOW + 9 * SECOND, 0) is settled


@pytest.mark.parametrize(
    ("when", "counted"),
    [(WhenAbandoned.COUNT_TO_HEARTBEAT, 10), (WhenAbandoned.COUNT_TO_END, 70)],
)
def test_abandoned_timer_counts_by_its_policy(when: WhenAbandoned, counted: int) -> None:
    policy = replace(POLICY, when_abandoned=when)
    beaten = started().heartbeat(policy, NOW + 10 * SECOND)
    assert beaten.sweep(policy, NOW + 69 * SECOND).state is TimerState.RUNNING
    ended = beaten.sweep(policy, NOW + 70 * SECOND)
    assert (ended.state, ended.flags, ended.duration_us) == (
        TimerState.STOPPING,
        (ABANDONED,),
        counted * SECOND,
    )
    assert ended.settled(NOW).state is TimerState.ABANDONED


def test_discarded_timer_has_no_event() -> None:
    policy = replace(POLICY, when_abandoned=WhenAbandoned.DISCARD)
    ended = started().sweep(policy, NOW + 60 * SECOND)
    assert (ended.state, ended.event_id) == (TimerState.DISCARDED, None)


@pytest.mark.parametrize("late", ["heartbeat", "stop"])
def test_abandoned_timer_accepts_no_further_calls(late: str) -> None:
    ended = started().sweep(POLICY, NOW + 60 * SECOND)
    for state in (ended, ended.settled(NOW)):
        with pytest.raises(FailedPreconditionError):
            state.heartbeat(POLICY, NOW) if late == "heartbeat" else state.stop(None, NOW, 0)


@pytest.mark.parametrize("stopped_us", [NOW - 1, NOW + 9 * SECOND, NOW + 400 * SECOND])
def test_invalid_times_are_refused(stopped_us: int) -> None:
    beaten = started().heartbeat(POLICY, NOW + 10 * SECOND)
    with pytest.raises(InvalidArgumentError, match="stopped_at"):
        beaten.stop(stopped_us, NOW + 20 * SECOND, 300 * SECOND)


def test_past_timer_can_be_reported_afterwards() -> None:
    """From two hours ago to one hour ago, reported now."""
    hour = 3_600 * SECOND
    timer = started(NOW - 2 * hour)
    ended = timer.stop(NOW - hour, NOW + SECOND, 300 * SECOND)
    assert (ended.state, ended.duration_us) == (TimerState.STOPPING, hour)
    with pytest.raises(InvalidArgumentError, match="not before the start"):
        timer.stop(NOW - 2 * hour - 1, NOW, 300 * SECOND)
    with pytest.raises(InvalidArgumentError, match="not before the start and the last heartbeat"):
        timer.heartbeat(POLICY, NOW).stop(NOW - hour, NOW, 300 * SECOND)
    # The abandonment period begins with the report, not with the reported start.
    assert timer.sweep(POLICY, NOW + 59 * SECOND).state is TimerState.RUNNING


def test_start_in_the_future_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="started_at"):
        started(NOW + 301 * SECOND)


def test_repeated_request_is_recognised() -> None:
    assert started().is_of(CONTENT, None)
    assert started(NOW - 5).is_of(CONTENT, NOW - 5)
    assert not started(NOW - 5).is_of(CONTENT, NOW - 6)
    assert not started(NOW - 5).is_of(CONTENT, None)
    assert not started().is_of(CONTENT, NOW)
    assert not started().is_of(replace(CONTENT, subject="u2"), None)


def test_refused_event_is_retried_with_growing_pauses() -> None:
    timer = started().stop(None, NOW, 0)
    waits = []
    for _ in range(12):
        timer = timer.refused("why", NOW)
        assert timer.due_us is not None
        waits.append((timer.due_us - NOW) // SECOND)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert timer.problem == "why"


def test_finished_timer_is_deleted_after_a_month() -> None:
    done = started().stop(None, NOW, 0).settled(NOW)
    assert not done.is_forgotten(NOW + FORGET_AFTER_US - 1)
    assert done.is_forgotten(NOW + FORGET_AFTER_US)
    assert not started().is_forgotten(NOW + 10 * FORGET_AFTER_US)


@given(
    st.integers(1, 2**31 - 1), st.text(max_size=20), st.integers(0, 4 * 10**15), st.integers(0, 4 * 10**15)
)
def test_event_id_is_a_uuid7_of_the_stop_time(
    tenant_id: int, timer_id: str, begun: int, stopped: int
) -> None:
    made = event_id(tenant_id, timer_id, begun, stopped)
    assert made == event_id(tenant_id, timer_id, begun, stopped)
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made_at_ms(made) == stopped // 1_000
    assert made != event_id(tenant_id, timer_id, begun + 1, stopped)
    assert made != event_id(tenant_id + 1, timer_id, begun, stopped)


steps = st.lists(
    st.tuples(st.sampled_from(["heartbeat", "stop", "sweep", "settle"]), st.integers(-100, 200)), max_size=12
)


@given(steps)
def test_any_sequence_gives_one_event_with_a_non_negative_duration(taken: list[tuple[str, int]]) -> None:
    """At each step the clock jumps by some seconds, also back, as between servers."""
    timer, now = started(), NOW
    seen = set()
    for step, seconds in taken:
        now += seconds * SECOND
        try:
            match step:
                case "heartbeat":
                    timer = timer.heartbeat(POLICY, now)
                case "stop":
                    timer = timer.stop(None, now, 0)
                case "sweep":
                    timer = timer.sweep(POLICY, now)
                case "settle" if timer.state is TimerState.STOPPING:
                    timer = timer.settled(now)
        except FailedPreconditionError:
            continue
        assert timer.duration_us >= 0
        if timer.event_id is not None:
            seen.add((timer.event_id, timer.duration_us))
    assert len(seen) <= 1
