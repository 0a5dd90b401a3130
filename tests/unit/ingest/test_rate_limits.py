"""Validation and precedence of rate limits, and the events that leases admit for any sequence of calls."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.errors import InvalidArgumentError
from meterline_ingest.rate_limits.rules.lease import LEASE_SECONDS, RENEW_SECONDS, Lease
from meterline_ingest.rate_limits.rules.limits import (
    MAX_BLOCK,
    MAX_RATE,
    MAX_WEIGHT,
    NO_LIMITS,
    LimitBook,
    Limits,
    Origin,
    wanted,
)

from tests.support.buckets import Bucket

pytestmark = pytest.mark.req("T4.2")

TENANT = 7
REPLICAS = 3
LARGEST = 400
US = 1_000_000

limits = st.builds(
    Limits, events_per_second=st.integers(1, 2_000), burst=st.integers(1, 1_000), weight=st.just(1)
)
Arrival = tuple[int, int, int, int]
# A call: the pause before it in microseconds, its replica, its events, and the events of a second waiting
# call that is cancelled before the answer comes.
calls = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 20_000), st.integers(0, 3_000_000)),
        st.integers(0, REPLICAS - 1),
        st.integers(1, LARGEST),
        st.sampled_from([0, 0, 1, LARGEST]),
    ),
    min_size=1,
    max_size=120,
)


@dataclass
class Replica:
    """The steps of `RateLimiter` for sequential calls."""

    lease: Lease
    bucket: Bucket
    waited: int = 0
    next_sweep: int = 0

    def sweep(self, moment: int) -> None:
        if moment >= self.next_sweep:
            self.next_sweep = moment + int(RENEW_SECONDS * US)
            self.lease.renew(moment / US)
            self.exchange([], moment)

    def call(self, events: int, moment: int, gone: int = 0) -> float:
        """0 for an admitted call, else the seconds until a retry."""
        self.sweep(moment)
        now = moment / US
        if self.lease.take(events, now):
            self.exchange([], moment)
            return 0.0
        if refused := self.lease.refuses(now):
            return refused
        self.waited += 1
        self.exchange([events, gone], moment)
        if self.lease.take(events, now):
            self.lease.give(0)
            return 0.0
        assert self.lease.refuses(now) > 0, "neither admitted nor given a retry delay"
        return self.lease.refuses(now)

    def exchange(self, waiting: list[int], moment: int) -> None:
        ask = self.lease.ask(waiting, moment / US)
        if ask is not None:
            self.lease.granted(ask, self.bucket.exchange(ask, moment), moment / US)


@dataclass
class World:
    """Replicas with a shared bucket, and the admitted events: (moment, events)."""

    limits: Limits
    shared: bool = True
    admitted: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        bucket = Bucket(self.limits)
        self.replicas = [
            Replica(Lease(TENANT, self.limits), bucket if self.shared else Bucket(self.limits))
            for _ in range(REPLICAS)
        ]

    def run(self, arriving: list[Arrival]) -> None:
        moment = 1_000 * US
        for pause, replica, events, gone in arriving:
            moment += pause
            if not self.replicas[replica].call(events, moment, gone):
                self.admitted.append((moment, events))
            for each in self.replicas:
                assert 0 <= each.lease.tokens <= self.limits.block

    @property
    def allowed_beyond(self) -> int:
        """Events allowed beyond the rate: the burst, the lease of each replica, and the debt of one call."""
        return self.limits.burst + REPLICAS * self.limits.block + LARGEST - 1

    def keeps_to_the_bound(self) -> bool:
        for first in range(len(self.admitted)):
            total = 0
            for moment, events in self.admitted[first:]:
                total += events
                filled = (moment - self.admitted[first][0]) * self.limits.events_per_second // US + 1
                if total > self.allowed_beyond + filled:
                    return False
        return True


@settings(deadline=None)
@given(limits, calls)
def test_replicas_admit_at_most_the_bound_in_any_window(limits: Limits, arriving: list[Arrival]) -> None:
    world = World(limits)
    world.run(arriving)
    assert world.keeps_to_the_bound()


def test_separate_buckets_of_replicas_are_caught() -> None:
    """The planted bug: each replica has its own bucket."""
    limits = Limits(1_000, 1_000)
    flood = [(100, at % REPLICAS, 100, 0) for at in range(200)]
    honest, planted = World(limits), World(limits, shared=False)
    honest.run(flood)
    planted.run(flood)
    assert honest.keeps_to_the_bound()
    assert not planted.keeps_to_the_bound()


@settings(deadline=None)
@given(limits, calls, st.integers(1, 10_000))
def test_call_of_any_size_is_admitted_after_its_retry_delay(
    limits: Limits, before: list[Arrival], events: int
) -> None:
    world = World(limits)
    world.run(before)
    moment = 1_000 * US + sum(pause for pause, *_ in before)
    for _ in range(REPLICAS + 2):
        refused = world.replicas[0].call(events, moment)
        if not refused:
            return
        # Unused leases of other replicas return to the bucket before the next exchange.
        moment += int(max(refused, LEASE_SECONDS) * US) + 1
        for other in world.replicas[1:]:
            other.exchange([], moment)
    raise AssertionError("never let in")


@settings(deadline=None)
@given(limits, calls)
def test_tokens_are_conserved(limits: Limits, arriving: list[Arrival]) -> None:
    """With a stopped clock, admitted, leased and remaining tokens add up to the initial ones."""
    world = World(limits)
    world.run([(0, replica, events, gone) for _, replica, events, gone in arriving])
    for each in world.replicas:
        each.lease.settle(each.lease.expires)
        each.exchange([], 1_000 * US)
    used = sum(events for _, events in world.admitted)
    assert world.replicas[0].bucket.level == (limits.burst - used) * US


def test_unused_lease_returns_to_the_bucket() -> None:
    limits = Limits(1_000, 1_000)
    replica = Replica(Lease(TENANT, limits), Bucket(limits))
    assert replica.call(1, 0) == 0.0
    assert replica.lease.tokens == limits.block
    replica.exchange([], int(2 * LEASE_SECONDS * US))
    assert replica.lease.idle
    assert replica.bucket.level == limits.burst * US


def test_active_lease_is_renewed_before_calls_wait() -> None:
    limits = Limits(1_000, 1_000)
    replica = Replica(Lease(TENANT, limits), Bucket(limits))
    for moment in range(0, 10 * US, 50_000):
        replica.sweep(moment)
        assert replica.call(1, moment) == 0.0
    assert replica.waited == 1


def test_idle_lease_is_not_renewed() -> None:
    lease = Lease(TENANT, Limits(1_000, 1_000))
    assert lease.ask([], 0.0) is None


def test_changed_limits_renew_the_lease_immediately() -> None:
    limits = Limits(1, 1)
    replica = Replica(Lease(TENANT, limits), Bucket(limits))
    assert replica.call(100, 0) == 0.0
    assert replica.call(1, 0) > 90
    replica.lease.follow(Limits(1_000, 1_000))
    assert replica.lease.refuses(0.0) == 0.0


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ((0, 0, 0), Limits(0, 0, 1)),
        ((100, 0, 0), Limits(100, 100, 1)),
        ((100, 5_000, 7), Limits(100, 5_000, 7)),
        ((MAX_RATE, MAX_RATE, MAX_WEIGHT), Limits(MAX_RATE, MAX_RATE, MAX_WEIGHT)),
    ],
)
def test_omitted_limits_have_defaults(asked: tuple[int, int, int], found: Limits) -> None:
    assert wanted(*asked) == found


@pytest.mark.parametrize(
    ("asked", "at_fault"),
    [
        ((MAX_RATE + 1, 0, 0), "limits.events_per_second"),
        ((1, MAX_RATE + 1, 0), "limits.burst"),
        ((0, 1, 0), "limits.burst"),
        ((1, 1, MAX_WEIGHT + 1), "limits.weight"),
    ],
)
def test_limits_out_of_range_are_refused_by_field(asked: tuple[int, int, int], at_fault: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        wanted(*asked)
    assert refused.value.field == at_fault


def test_limits_of_a_tenant_override_those_of_its_plan() -> None:
    plan, own = Limits(10, 10), Limits(5, 5)
    book = LimitBook({"basic": plan}, {1: own})
    assert book.find(1, "basic") == (own, Origin.TENANT)
    assert book.find(2, "basic") == (plan, Origin.PLAN)
    assert book.find(2, "other") == (NO_LIMITS, Origin.NONE)
    assert book.limited
    assert not LimitBook({"basic": Limits(weight=5)}, {1: NO_LIMITS}).limited


@given(st.integers(1, MAX_RATE))
def test_lease_size_is_a_tenth_of_a_second_within_bounds(rate: int) -> None:
    block = Limits(rate, rate).block
    assert 1 <= block <= MAX_BLOCK
    assert block == max(1, rate // 10) or block == MAX_BLOCK
