"""The circuit breaker: closed, open, half-open."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from meterline_client.breaker import Breaker, BreakerState

THRESHOLD, COOLDOWN, LONGEST = 3, 1.0, 8.0


def breaker() -> Breaker:
    return Breaker(THRESHOLD, COOLDOWN, LONGEST, random.Random(3))


def opened(one: Breaker, now: float) -> float:
    """Opens the breaker; returns the end of the cooldown."""
    for _ in range(THRESHOLD):
        one.failed(now)
    until = one.retry_at()
    assert until is not None
    return until


@pytest.mark.req("T7.1")
def test_breaker_opens_only_after_consecutive_failures() -> None:
    one = breaker()
    one.failed(0.0)
    one.failed(1.0)
    since = [one.failing_since]
    one.succeeded()
    since.append(one.failing_since)
    one.failed(2.0)
    one.failed(3.0)

    assert one.allow(3.0)
    one.failed(4.0)
    assert one.state is BreakerState.OPEN
    assert [*since, one.failing_since] == [0.0, None, 2.0]
    assert not one.allow(4.0)


@pytest.mark.req("T7.1")
def test_one_probe_is_allowed_after_the_cooldown() -> None:
    one = breaker()
    until = opened(one, 10.0)

    assert 10.5 <= until <= 11.0
    assert not one.allow(until - 0.001)
    assert one.allow(until)
    assert one.state is BreakerState.HALF_OPEN
    assert not one.allow(until + 100)
    assert one.retry_at() is None


@pytest.mark.req("T7.1")
def test_successful_probe_closes_and_failed_probe_doubles_the_cooldown() -> None:
    one = breaker()
    until, cooldowns = opened(one, 0.0), []
    for _ in range(5):
        assert one.allow(until)
        one.failed(until)
        ends = one.retry_at()
        assert ends is not None
        cooldowns.append(ends - until)
        until = ends
    assert one.allow(until)
    one.succeeded()

    for cooldown, ceiling in zip(cooldowns, [2.0, 4.0, 8.0, 8.0, 8.0], strict=True):
        assert ceiling / 2 <= cooldown <= ceiling
    assert one.state is BreakerState.CLOSED
    assert opened(one, until) <= until + COOLDOWN


@pytest.mark.req("T7.1")
def test_late_failures_do_not_extend_the_cooldown() -> None:
    one = breaker()
    until = opened(one, 0.0)

    one.failed(until - 0.01)

    assert one.retry_at() == until


class Machine(RuleBasedStateMachine):
    """Any sequence of calls: never two concurrent probes, never open for longer than the cooldown."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = breaker()
        self.now = 0.0
        self.calls = 0
        self.in_a_row = 0

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_is_made_if_allowed(self) -> None:
        state, until = self.breaker.state, self.breaker.retry_at()
        allowed = self.breaker.allow(self.now)
        assert allowed == (state is BreakerState.CLOSED or (until is not None and self.now >= until))
        self.calls += allowed

    @precondition(lambda self: self.calls)
    @rule(good=st.booleans())
    def a_call_ends(self, good: bool) -> None:
        self.calls -= 1
        self.in_a_row = 0 if good else self.in_a_row + 1
        if good:
            self.breaker.succeeded()
        else:
            self.breaker.failed(self.now)

    @invariant()
    def it_is_closed_until_the_threshold(self) -> None:
        assert (self.breaker.state is BreakerState.CLOSED) == (self.in_a_row < THRESHOLD)
        assert (self.breaker.failing_since is None) == (self.in_a_row == 0)

    @invariant()
    def it_never_stays_open_for_good(self) -> None:
        until = self.breaker.retry_at()
        assert until is None or until <= self.now + LONGEST


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBreaker = pytest.mark.req("T7.1")(Machine.TestCase)
