"""The burial breaker: a few poison messages are dead-lettered; a handler that fails often opens it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from meterline.consuming.breaker import Breaker, BreakerState, BurialRules

pytestmark = pytest.mark.req("T3.1", "O2")

RULES = BurialRules(window=20, percent=90, cooldown=1.0, longest_cooldown=8.0)


def message(number: int) -> uuid.UUID:
    return uuid.UUID(int=number)


def report(breaker: Breaker, outcomes: Sequence[bool], start: int = 0) -> list[bool]:
    """Reports outcomes of messages (True: poison); returns for each poison one whether it may be buried."""
    allowed = []
    for number, poison in enumerate(outcomes, start):
        if poison:
            allowed.append(breaker.may_bury(message(number), 0.0))
        else:
            breaker.handled(message(number))
    return allowed


def opened() -> Breaker:
    breaker = Breaker(RULES)
    report(breaker, [True] * 19)
    assert breaker.state is BreakerState.OPEN
    return breaker


def too_many(outcomes: Sequence[bool], rules: BurialRules) -> bool:
    """The rule of the breaker, applied to the last messages of a sequence."""
    return sum(outcomes[-rules.window :]) * 100 > rules.percent * rules.window


@given(
    st.lists(st.booleans() | st.just(True), max_size=80),
    st.integers(1, 30),
    st.integers(1, 100),
)
def test_breaker_opens_when_poison_exceeds_its_share(outcomes: list[bool], window: int, percent: int) -> None:
    rules = BurialRules(window=window, percent=percent)
    breaker = Breaker(rules)
    for number, poison in enumerate(outcomes):
        report(breaker, [poison], start=number)
        opens = poison and too_many(outcomes[: number + 1], rules)
        assert (breaker.state is BreakerState.OPEN) == opens
        if opens:
            break


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 200))
def test_handler_that_fails_everything_buries_less_than_a_window(
    window: int, percent: int, tries: int
) -> None:
    rules = BurialRules(window=window, percent=min(percent, 99))
    breaker = Breaker(rules)
    buried = sum(report(breaker, [True] * (window + 50)))
    for number in range(tries):
        breaker.try_one()
        buried += breaker.may_bury(message(1_000 + number), float(number))
    assert buried <= rules.percent * window // 100 < window


@given(st.lists(st.integers(0, 18), min_size=1, max_size=20))
def test_few_poison_messages_never_open_the_breaker(gaps: list[int]) -> None:
    """At least two of every twenty consecutive messages are good."""
    outcomes = [
        poison for gap in gaps for poison in (*[True] * (gap // 2), False, *[True] * (gap // 2), False)
    ]
    breaker = Breaker(RULES)
    assert all(report(breaker, outcomes))
    assert breaker.state is BreakerState.CLOSED


@given(st.lists(st.booleans(), max_size=100), st.integers(1, 10))
def test_limit_of_100_percent_never_opens_the_breaker(outcomes: list[bool], window: int) -> None:
    assert all(report(Breaker(BurialRules(window=window, percent=100)), outcomes))


def test_redelivered_message_counts_once() -> None:
    breaker = Breaker(RULES)
    assert all(breaker.may_bury(message(1), 0.0) for _ in range(100))


def test_open_breaker_buries_nothing_and_ignores_messages_in_flight() -> None:
    breaker = opened()
    breaker.handled(message(100))
    assert not breaker.may_bury(message(101), 0.5)
    assert breaker.state is BreakerState.OPEN
    assert breaker.cooldown_left(0.25) == 0.75


def test_successful_probe_closes_and_failed_probe_doubles_the_cooldown() -> None:
    breaker, cooldowns = opened(), []
    for number in range(5):
        breaker.try_one()
        assert not breaker.may_bury(message(100 + number), 10.0)
        cooldowns.append(breaker.cooldown_left(10.0))
    assert cooldowns == [2.0, 4.0, 8.0, 8.0, 8.0]
    breaker.try_one()
    breaker.handled(message(200))
    assert breaker.state is BreakerState.CLOSED
    assert breaker.cooldown == RULES.cooldown


def test_single_good_message_does_not_allow_burial() -> None:
    breaker = opened()
    breaker.try_one()
    breaker.handled(message(200))
    assert report(breaker, [True] * 5, start=300) == [False] * 5


class Machine(RuleBasedStateMachine):
    """Any sequence of outcomes, probes and pauses."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(RULES)
        self.now = 0.0
        self.number = 0

    def next_message(self) -> uuid.UUID:
        self.number += 1
        return message(self.number)

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def one_goes_through(self) -> None:
        before = self.breaker.state
        self.breaker.handled(self.next_message())
        if before is not BreakerState.OPEN:
            assert self.breaker.state is BreakerState.CLOSED

    @rule(times=st.integers(1, 25))
    def some_are_poison(self, times: int) -> None:
        for _ in range(times):
            before = self.breaker.state
            buried = self.breaker.may_bury(self.next_message(), self.now)
            assert buried == (self.breaker.state is BreakerState.CLOSED)
            assert not buried or before is BreakerState.CLOSED

    @precondition(lambda self: self.breaker.cooldown_left(self.now) == 0)
    @rule()
    def one_is_tried(self) -> None:
        before = self.breaker.state
        self.breaker.try_one()
        opened = before is BreakerState.OPEN
        assert self.breaker.state is (BreakerState.HALF_OPEN if opened else before)

    @invariant()
    def it_never_stays_open_for_good(self) -> None:
        assert 0 <= self.breaker.cooldown_left(self.now) <= RULES.longest_cooldown
        assert RULES.cooldown <= self.breaker.cooldown <= RULES.longest_cooldown


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBurialBreaker = Machine.TestCase
