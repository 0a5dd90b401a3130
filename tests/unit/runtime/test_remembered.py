"""What is remembered is no older than promised, and never what was forgotten since it was asked for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.db.pool import Database
from meterline.remembered.answers import Answers, Question
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import Transaction
from meterline_protos.events.v1 import events_pb2

pytestmark = pytest.mark.req("T4.1")

SECONDS = 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_answer_is_used_for_so_long_from_its_question_on() -> None:
    clock = Clock()
    remembered: Answers[str, str] = Answers(SECONDS, most=10, now=clock)
    question = remembered.ask()
    clock.now += 1.5
    remembered.keep(question, "a", "1")
    clock.now += 0.4
    assert (remembered.get("a"), "a" in remembered) == ("1", True)
    clock.now += 0.1
    assert (remembered.get("a"), "a" in remembered) == (None, False)


def test_an_answer_that_is_too_old_when_it_comes_is_not_used() -> None:
    clock = Clock()
    remembered: Answers[str, str] = Answers(SECONDS, most=10, now=clock)
    question = remembered.ask()
    clock.now += SECONDS
    remembered.keep(question, "a", "1")
    assert remembered.get("a") is None


def test_what_was_forgotten_while_it_was_asked_for_is_not_kept() -> None:
    remembered: Answers[str, str] = Answers(SECONDS, most=10)
    before = remembered.ask()
    remembered.forget("a")
    remembered.keep(before, "a", "from before the change")
    remembered.keep(before, "b", "1")
    assert (remembered.get("a"), remembered.get("b")) == (None, "1")
    remembered.keep(remembered.ask(), "a", "from after it")
    assert remembered.get("a") == "from after it"


def test_the_oldest_go_first_and_what_is_too_old_does_not_stay() -> None:
    clock = Clock()
    remembered: Answers[int, int] = Answers(SECONDS, most=3, now=clock)
    for at in range(5):
        remembered.keep(remembered.ask(), at, at)
    assert [remembered.get(at) for at in range(5)] == [None, None, 2, 3, 4]
    clock.now += SECONDS
    remembered.keep(remembered.ask(), 5, 5)
    assert len(remembered) == 1


def test_a_stale_answer_is_only_used_by_those_who_ask_for_it() -> None:
    clock = Clock()
    answers: Answers[str, str] = Answers(SECONDS, stale=30.0, most=10, now=clock)
    answers.keep(answers.ask(), "a", "1")
    clock.now += SECONDS
    assert (answers.get("a"), answers.get_many("ab"), answers.get_stale("a")) == (None, {}, "1")
    clock.now += 28.0
    assert (answers.get_stale("a"), answers.holds("a")) == (None, True)


@pytest.mark.parametrize("keeps_old", [False, True])
def test_old_answers_leave_memory_unless_their_keys_are_to_be_known(keeps_old: bool) -> None:
    clock = Clock()
    answers: Answers[int, int] = Answers(SECONDS, stale=30.0, keeps_old=keeps_old, most=3, now=clock)
    answers.keep(answers.ask(), 0, 0)
    clock.now += 29.9
    answers.keep(answers.ask(), 1, 1)
    assert answers.holds(0)
    clock.now += 0.1
    answers.keep(answers.ask(), 2, 2)
    assert answers.holds(0) == keeps_old
    for key in (3, 4):
        answers.keep(answers.ask(), key, key)
    assert [key for key in range(5) if answers.holds(key)] == [2, 3, 4]


def test_what_is_too_old_leaves_memory_on_request() -> None:
    clock = Clock()
    answers: Answers[str, int] = Answers(SECONDS, most=10, now=clock)
    early = answers.ask()
    clock.now += 1.0
    answers.keep(answers.ask(), "late", 1)
    answers.keep(early, "early", 1)
    clock.now += 1.0
    answers.expire()
    assert [key for key in ("early", "late") if answers.holds(key)] == ["late"]
    answers.clear()
    assert len(answers) == 0


def test_many_are_looked_up_at_once() -> None:
    answers: Answers[str, int] = Answers(SECONDS, most=10)
    for value, key in enumerate("ab"):
        answers.keep(answers.ask(), key, value)
    assert answers.get_many("abc") == {"a": 0, "b": 1}


sizes = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12)), max_size=60)


@given(sizes)
@pytest.mark.req("T2.4")
def test_what_is_kept_never_exceeds_its_bound(sequence: list[tuple[int, int]]) -> None:
    """Answers of sizes of their own, of which some are larger than all there is room for."""
    remembered: Answers[int, int] = Answers(SECONDS, most=10, size_of=lambda _, size: size)
    expected: dict[int, int] = {}
    for key, size in sequence:
        remembered.keep(remembered.ask(), key, size)
        expected.pop(key, None)
        while expected and sum(expected.values()) + size > 10:
            del expected[next(iter(expected))]
        if size <= 10:
            expected[key] = size
        if size == 3:
            remembered.forget(key - 1)
            expected.pop(key - 1, None)
        assert {key: remembered.get(key) for key in range(6) if key in remembered} == expected
        assert len(remembered) == len(expected)


keys = st.sampled_from("ab")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([0.3, 1.0, 1.9])),
        st.tuples(st.sampled_from(["ask", "answer", "change"]), keys),
    ),
    max_size=40,
)


@given(steps)
def test_nothing_is_used_that_was_true_too_long_ago(sequence: list[tuple[str, Any]]) -> None:
    """A source whose values are the number of their change, and that answers whenever it likes."""
    clock = Clock()
    remembered: Answers[str, int] = Answers(SECONDS, most=10, now=clock)
    value = dict.fromkeys("ab", 0)
    changed_at: dict[tuple[str, int], float] = {}
    under_way: list[tuple[str, Question[str], int]] = []
    for step, what in sequence:
        if step == "pass":
            clock.now += what
        elif step == "ask":
            under_way.append((what, remembered.ask(), value[what]))
        elif step == "answer" and under_way:
            remembered.keep(under_way[0][1], under_way[0][0], under_way.pop(0)[2])
        elif step == "change":
            changed_at[what, value[what]] = clock.now
            value[what] += 1
            if value[what] % 2:
                remembered.forget(what)
                assert remembered.get(what) is None
        for key in "ab":
            known = remembered.get(key)
            if known is not None and known != value[key]:
                assert clock.now - changed_at[key, known] < SECONDS


class SlowDatabase:
    """Answers with the row that there was when it was asked, as soon as it may."""

    def __init__(self) -> None:
        self.plan = "free"
        self.gate = asyncio.Event()

    async def fetch(self, *_: object) -> list[tuple[object, ...]]:
        row = (1, "acme", 1, "UTC", "USD", self.plan, "", "", True, None)
        await self.gate.wait()
        return [row]

    async def execute(self, *_: object) -> None:
        self.plan = "paid"


async def test_a_tenant_that_changes_while_it_is_looked_for_is_not_remembered_as_it_was() -> None:
    database = SlowDatabase()
    replica = TenantReplica(cast("Database", database))
    looking = asyncio.create_task(replica.find("acme"))
    await asyncio.sleep(0)
    transaction = Transaction(cast("Any", database))
    await replica.apply(transaction, events_pb2.TenantChanged(tenant_id=1, slug="acme", plan="paid"))
    for callback in transaction._after_commit:
        callback()
    database.gate.set()
    before, after = await looking, await replica.find("acme")
    assert before is not None
    assert after is not None
    assert (before.plan, after.plan) == ("free", "paid")
