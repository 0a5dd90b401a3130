"""The fair queue before the commit: order, capacity and shares of tenants."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_ingest.capture.rules.fair_queue import FairQueue

pytestmark = pytest.mark.req("T4.2", "T2.4")

TURN = 100
MOST = 500
LARGEST = 300
GUARANTEED = 300
ROOM = 4_000


@dataclass(eq=False)
class Call:
    flow: int
    cost: int
    number: int = 0


class Fifo(FairQueue[Call]):
    """The planted bug: first come, first served."""

    def __init__(self, room: int, *, turn: int, guaranteed: int) -> None:
        super().__init__(room, turn=turn, guaranteed=guaranteed)
        self._calls: deque[Call] = deque()

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, flow: int, weight: int, item: Call) -> None:
        self._calls.append(item)

    def take(self, most: int) -> list[Call]:
        taken: list[Call] = []
        while self._calls and (not taken or sum(each.cost for each in taken) + self._calls[0].cost <= most):
            taken.append(self._calls.popleft())
        return taken


Queue = Callable[..., FairQueue[Call]]


def queue(kind: Queue = FairQueue, room: int = ROOM) -> FairQueue[Call]:
    return kind(room, turn=TURN, guaranteed=GUARANTEED)


def put(into: FairQueue[Call], call: Call, weight: int = 1) -> bool:
    if not into.reserve(call.flow, weight, call.cost):
        return False
    into.add(call.flow, weight, call)
    return True


flows = st.integers(0, 4)
costs = st.one_of(st.integers(1, 5), st.integers(1, LARGEST))
# Steps: a call of a flow with a cost arrives; None: a flush takes the next calls; an index: a call is done.
steps = st.lists(
    st.one_of(
        st.tuples(flows, costs),
        st.tuples(flows, costs),
        st.none(),
        st.integers(0, 10),
    ),
    max_size=200,
)


@settings(deadline=None)
@given(steps, st.lists(st.integers(1, 5), min_size=5, max_size=5))
def test_every_call_is_taken_once_in_tenant_order_within_bounds(
    steps: list[tuple[int, int] | int | None], weights: list[int]
) -> None:
    made = queue()
    put_in: dict[int, list[int]] = {flow: [] for flow in range(5)}
    came_out: dict[int, list[int]] = {flow: [] for flow in range(5)}
    under_way: list[list[Call]] = []
    number = 0

    def take() -> None:
        taken = made.take(MOST)
        assert taken
        assert len(taken) == 1 or sum(call.cost for call in taken) <= MOST
        for call in taken:
            came_out[call.flow].append(call.number)
        under_way.append(taken)

    def done(at: int) -> None:
        for call in under_way.pop(at):
            # Some calls cost more than estimated.
            made.charge(call.flow, weights[call.flow], call.cost * (call.number % 3))
            made.release(call.flow, call.cost)

    for step in steps:
        if isinstance(step, tuple):
            number += 1
            if put(made, Call(*step, number), weights[step[0]]):
                put_in[step[0]].append(number)
        elif step is None and made:
            take()
        elif isinstance(step, int) and step < len(under_way):
            done(step)
        assert 0 <= made.held <= ROOM
    while made:
        take()
    while under_way:
        done(0)
    assert came_out == put_in
    assert made.held == 0
    # The queue keeps no state of tenants without calls.
    assert not made._flows
    assert not made._shares._holders
    assert made._shares._weights == 0


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=5),
    st.integers(1, 12),
    st.data(),
)
def test_waiting_tenants_get_shares_by_weight_within_one_turn(
    weights: list[int], takes: int, data: st.DataObject
) -> None:
    made = queue(room=10**9)
    for flow, weight in enumerate(weights):
        # More calls than are taken below, so that all tenants wait all the time.
        for _ in range(2 * takes * MOST // 50):
            call = Call(flow, data.draw(st.integers(50, LARGEST)) if flow == 0 else 50 + 40 * flow)
            assert put(made, call, weight)
    served: Counter[int] = Counter()
    for _ in range(takes):
        for call in made.take(MOST):
            served[call.flow] += call.cost
    turns = [(served[flow] / weight) / TURN for flow, weight in enumerate(weights)]
    assert max(turns) - min(turns) <= 1 + LARGEST / TURN


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=5),
    st.lists(st.integers(1, 6), min_size=5, max_size=5),
    st.integers(1, 60),
)
def test_later_charges_reduce_the_share(weights: list[int], factors: list[int], takes: int) -> None:
    """The true cost of each tenant's events is a multiple of the estimate."""
    made = queue(room=10**9)
    for flow, weight in enumerate(weights):
        for _ in range(2 * takes * MOST // 50):
            assert put(made, Call(flow, 50), weight)
    spent: Counter[int] = Counter()
    for _ in range(takes):
        taken = made.take(MOST)
        assert taken
        for call in taken:
            extra = (factors[call.flow] - 1) * call.cost
            made.charge(call.flow, weights[call.flow], extra)
            spent[call.flow] += call.cost + extra
    turns = [spent[flow] / (weight * TURN) for flow, weight in enumerate(weights)]
    # No tenant may be ahead by more than one turn and the true cost of one flush.
    assert max(turns) - min(turns) <= 1 + LARGEST / TURN + max(factors) * MOST / TURN


class Forgiving(FairQueue[Call]):
    """The planted bug: costs beyond the estimate are not charged."""

    def charge(self, flow: int, weight: int, cost: int) -> None:
        pass


def served_during_flood(kind: Queue, factor: int) -> int:
    """The cost that a flood of expensive calls is served while another tenant gets 100 turns."""
    made = queue(kind, room=10**9)
    for flow in (0, 1):
        for _ in range(4 * 100 * TURN // 50):
            put(made, Call(flow, 50))
    served: Counter[int] = Counter()
    while served[1] < 100 * TURN:
        for call in made.take(MOST):
            served[call.flow] += call.cost
            made.charge(call.flow, 1, (factor - 1) * call.cost if call.flow == 0 else 0)
    return served[0] // TURN


def test_flood_of_expensive_calls_gets_only_its_share() -> None:
    assert served_during_flood(FairQueue, 5) <= 100 // 5 + MOST // TURN
    assert served_during_flood(Forgiving, 5) >= 95


def test_tenant_in_debt_is_served_when_alone_and_by_turns_otherwise() -> None:
    made = queue()
    for _ in range(20):
        put(made, Call(0, 50))
    assert len(made.take(MOST)) == 10
    made.charge(0, 1, 10 * MOST)
    assert len(made.take(MOST)) <= TURN // 50
    # Its debt was cleared without a charge.
    assert made.take(MOST)


def test_debt_remains_while_other_tenants_wait() -> None:
    made = queue()
    put(made, Call(0, 50))
    put(made, Call(1, 50))
    (first, second) = made.take(MOST)
    made.charge(0, 1, 10 * TURN)
    made.release(first.flow, first.cost)
    assert not made
    # The other tenant still waits.
    for flow in (0, 1):
        for _ in range(12):
            put(made, Call(flow, 100))
    assert {call.flow for _ in range(2) for call in made.take(MOST)} == {1}
    made.release(second.flow, second.cost)


def test_debts_are_cleared_when_the_queue_is_empty() -> None:
    made = queue()
    put(made, Call(0, 50))
    (call,) = made.take(MOST)
    made.charge(0, 1, 10 * TURN)
    made.release(call.flow, call.cost)
    assert not made._flows
    for flow in (0, 1):
        put(made, Call(flow, 50))
    assert {call.flow for call in made.take(MOST)} == {0, 1}


def served_before(kind: Queue, flood: list[int], cost: int) -> int:
    """How many calls of a flood are served before one later call of another tenant."""
    made = queue(kind, room=10**9)
    for each in flood:
        put(made, Call(0, each))
    put(made, Call(1, cost))
    before = 0
    while True:
        for call in made.take(MOST):
            if call.flow == 1:
                return before
            before += call.cost


@settings(deadline=None)
@given(st.lists(costs, max_size=100), costs)
def test_tenant_waits_at_most_one_turn_of_each_other_tenant(flood: list[int], cost: int) -> None:
    turns = -(-cost // TURN)
    assert served_before(FairQueue, flood, cost) <= turns * TURN + LARGEST


def test_first_in_first_out_queue_is_caught() -> None:
    flood = [LARGEST] * 100
    assert served_before(FairQueue, flood, 1) <= TURN + LARGEST
    assert served_before(Fifo, flood, 1) == sum(flood)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, GUARANTEED), st.integers(1, 5))
def test_new_tenant_finds_room_during_floods(floods: int, cost: int, weight: int) -> None:
    made = queue()
    refused = 0
    for at in range(10_000):
        refused = 0 if put(made, Call(at % floods, 10)) else refused + 1
        if refused > floods:
            break
    assert refused > floods, "the floods were never refused"
    # A single flood cannot fill the queue; many can, but each only with its guaranteed share.
    alone = ROOM - ROOM // 8
    assert made.held <= max(alone, floods * GUARANTEED)
    if floods * GUARANTEED <= alone:
        assert put(made, Call(99, cost), weight)


def test_flood_loses_room_when_other_tenants_arrive() -> None:
    made = queue()
    while put(made, Call(0, 100)):
        pass
    assert made.held == ROOM - ROOM // 8
    assert put(made, Call(1, 100), 3)
    # Its share is now a quarter of that; it gets no room until it holds less.
    while made.held > ROOM // 5:
        assert not put(made, Call(0, 100))
        for call in made.take(MOST):
            made.release(call.flow, call.cost)
            if call.flow == 1:
                assert put(made, Call(1, 100), 3)
    assert put(made, Call(0, 100))


def test_small_tenant_shares_a_flush_with_at_most_one_turn_of_a_flood() -> None:
    made = queue()
    for _ in range(10):
        put(made, Call(0, 50))
    put(made, Call(1, 1))
    assert Counter(call.flow for call in made.take(MOST)) == {0: 2, 1: 1}
    # No other tenant waits.
    assert len(made.take(MOST)) == 8


def test_quiet_tenant_accumulates_no_turns() -> None:
    made = queue()
    for _ in range(50):
        put(made, Call(1, 1))
        made.take(MOST)
    for flow in (1, 0):
        for _ in range(10):
            put(made, Call(flow, 50))
    assert Counter(call.flow for call in made.take(MOST - 100)) == {0: 4, 1: 4}


def test_call_larger_than_a_flush_is_flushed_alone() -> None:
    made: FairQueue[Call] = FairQueue(10_000, turn=TURN, guaranteed=10_000)
    put(made, Call(0, 10 * MOST))
    put(made, Call(0, 1))
    assert [call.cost for call in made.take(MOST)] == [10 * MOST]
    assert [call.cost for call in made.take(MOST)] == [1]


def test_call_that_grows_while_queued_is_charged_its_final_cost() -> None:
    made = queue()
    call = Call(0, 1)
    put(made, call)
    assert made.reserve(0, 1, 4)
    call.cost += 4
    (taken,) = made.take(MOST)
    made.release(0, taken.cost)
    assert made.held == 0
