"""The group book asks the database once for each group; the rest group evicts no other group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from meterline_aggregate.folding import groups
from meterline_aggregate.folding.groups import GroupBook
from meterline_aggregate.folding.rules.groups import GroupKey, group_key, names_of, rest_key, rest_of
from meterline_aggregate.folding.store.groups import Added, Place
from meterline_aggregate.meters.rules.definitions import Pairs

pytestmark = pytest.mark.req("T2.4")

REST = 99


class Stored:
    """A fake store of one tenant at its group limit: values below `own` have a group. Records the lookups."""

    def __init__(self, own: int) -> None:
        self._own = own
        self.asked: list[int] = []

    async def find(self, _: object, wanted: Mapping[GroupKey, Pairs]) -> dict[GroupKey, Place]:
        self.asked.append(len(wanted))
        return {key: self._place(int(group[0][1])) for key, group in wanted.items()}

    async def add(self, *_: object) -> Added:
        raise AssertionError("nothing is new")

    def _place(self, value: int) -> Place:
        return Place(value + 1, rest=False) if value < self._own else Place(REST, rest=True)


class Committed:
    """A transaction that commits at once."""

    connection: Any = None

    def after_commit(self, callback: Callable[[], None]) -> None:
        callback()


def wanted(*values: int) -> dict[GroupKey, Pairs]:
    pairs = [(("id", str(value)),) for value in values]
    return {group_key(1, group): group for group in pairs}


async def numbers(book: GroupBook, *values: int) -> list[int]:
    asked = wanted(*values)
    found = await book.find(Committed(), asked)  # type: ignore[arg-type]
    return [found[key] for key in asked]


async def test_known_groups_are_not_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(own=2)
    monkeypatch.setattr(groups, "store", stored)
    book = GroupBook()
    for _ in range(3):
        assert await numbers(book, 0, 1, 2, 3) == [1, 2, REST, REST]
    # One statement looked up all values; later calls needed none, also for the rest group.
    assert stored.asked == [4]


async def test_rest_lookups_evict_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored(own=3)
    monkeypatch.setattr(groups, "store", stored)
    monkeypatch.setattr(groups, "_RESTS", 2)
    monkeypatch.setattr(groups, "_GROUPS", 3)
    book = GroupBook()
    await numbers(book, 0, 1, 2)
    for value in range(10, 30):
        assert await numbers(book, value) == [REST]
    stored.asked.clear()
    assert await numbers(book, 0, 1, 2) == [1, 2, 3]
    assert stored.asked == []


def test_no_dimension_value_can_collide_with_the_rest_group() -> None:
    names = names_of((("origin", "x"), ("cabin", "y")))
    assert names == "cabin,origin"
    assert rest_of(names) == (("cabin", "(other)"), ("origin", "(other)"))
    assert group_key(1, rest_of(names)) != rest_key((1, names))
