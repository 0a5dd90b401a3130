"""Many keys are looked up by one question, and that a source lacks a key is remembered as well."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from meterline.remembered.answers import Answers
from meterline.remembered.lookup import Lookup

pytestmark = pytest.mark.req("T2.4")


class Source:
    """Has a value for some keys; answers are remembered for two seconds, absences for one."""

    def __init__(self, most_absent: int = 10, **values: int) -> None:
        self.values = values
        self.asked: list[list[str]] = []
        self.now = 100.0
        self.known: Answers[str, int] = Answers(2.0, most=10, now=lambda: self.now)
        self.absent: Answers[str, bool] = Answers(1.0, most=most_absent, now=lambda: self.now)
        self.lookup: Lookup[str, int] = Lookup(self.ask, known=self.known, absent=self.absent)

    async def ask(self, keys: Collection[str]) -> dict[str, int]:
        self.asked.append(list(keys))
        return {key: self.values[key] for key in keys if key in self.values}


async def test_all_that_is_missing_is_asked_for_at_once() -> None:
    source = Source(a=1, b=2, c=0)
    assert await source.lookup.find_many(["a"]) == {"a": 1}
    assert await source.lookup.find_many(["c", "b", "a", "x"]) == {"a": 1, "b": 2, "c": 0}
    assert source.asked == [["a"], ["c", "b", "x"]]
    assert await source.lookup.find_many(["a", "b", "c", "x"]) == {"a": 1, "b": 2, "c": 0}
    assert len(source.asked) == 2


async def test_absences_and_answers_have_ages_of_their_own() -> None:
    source = Source(a=1)
    await source.lookup.find_many(["a", "x"])
    source.values |= {"x": 3}
    source.now += 1.0
    assert await source.lookup.find_many(["a", "x"]) == {"a": 1, "x": 3}
    source.now += 1.0
    assert await source.lookup.find_many(["a", "x"]) == {"a": 1, "x": 3}
    assert source.asked == [["a", "x"], ["x"], ["a"]]


async def test_absences_push_no_answer_out() -> None:
    source = Source(a=1, most_absent=3)
    await source.lookup.find_many(["a", *map(str, range(100))])
    assert (len(source.known), len(source.absent)) == (1, 3)


async def test_a_change_by_this_process_is_seen_by_the_next_call() -> None:
    source = Source(a=1)
    await source.lookup.find_many(["a", "x"])
    source.values = {"a": 2, "x": 3}
    source.lookup.forget(["a", "x"])
    assert await source.lookup.find_many(["a", "x"]) == {"a": 2, "x": 3}


@pytest.mark.parametrize("key", ["a", "x"])
async def test_what_changes_while_it_is_asked_for_is_not_remembered(key: str) -> None:
    source = Source(a=1)
    answer = source.ask

    async def ask(keys: Collection[str]) -> dict[str, int]:
        before = await answer(keys)
        source.values = {"a": 2, "x": 3}
        lookup.forget(["a", "x"])
        return before

    lookup: Lookup[str, int] = Lookup(ask, known=source.known, absent=source.absent)
    await lookup.find_many([key])
    assert (await lookup.find_many([key]))[key] == source.values[key]
