"""A table in memory is never older than promised, also for the first calls after quiet."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.errors import UnavailableError
from meterline.remembered.book import CachedBook

pytestmark = pytest.mark.req("T4.2")

AGE = 2.0


class Table:
    """A table whose content is the number of its last change, the time, and a gate on the way from it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.change = 0
        self.away = False
        self.looks = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.book_of: CachedBook[int] = CachedBook(self, -1, max_age=AGE, now=lambda: self.now)

    async def last_change(self) -> int:
        self.looks += 1
        if self.away:
            raise UnavailableError("away")
        change = self.change
        await self.gate.wait()
        return change

    async def book(self) -> int:
        return self.change


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_first_calls_after_quiet_wait_for_one_look() -> None:
    table = Table()
    await table.book_of.start()
    table.change = 1
    table.now += 3_600
    table.gate.clear()
    calls = [asyncio.create_task(table.book_of.current()) for _ in range(50)]
    await turn()
    assert not any(call.done() for call in calls)
    table.gate.set()
    assert await asyncio.gather(*calls) == [1] * 50
    assert table.looks == 2


async def test_while_calls_keep_coming_none_waits() -> None:
    table = Table()
    await table.book_of.start()
    for at in range(40):
        table.change = at
        table.now += 0.1
        call = asyncio.create_task(table.book_of.current())
        await asyncio.sleep(0)
        assert call.done()
        assert call.result() >= at - int(AGE / 0.1)
        await turn()
    assert table.looks <= 1 + 3


async def test_a_fresh_table_costs_no_look() -> None:
    table = Table()
    await table.book_of.start()
    table.now += 1.5
    assert [await table.book_of.current() for _ in range(20)] == [0] * 20
    assert table.looks == 1


async def test_a_change_of_this_process_is_known_to_the_next_call_though_a_look_was_under_way() -> None:
    table = Table()
    await table.book_of.start()
    table.now += AGE + 1
    table.gate.clear()
    early = asyncio.create_task(table.book_of.current())
    await turn()
    table.change = 1
    table.book_of.forget()
    late = [asyncio.create_task(table.book_of.current()) for _ in range(5)]
    await turn()
    table.gate.set()
    await early
    assert await asyncio.gather(*late) == [1] * 5
    assert await table.book_of.current() == 1


async def test_a_look_that_takes_longer_than_the_age_is_not_for_those_who_come_later() -> None:
    table = Table()
    await table.book_of.start()
    table.now += AGE * 3 / 4 + 0.1
    table.gate.clear()
    assert await table.book_of.current() == 0
    await turn()
    # It has looked before this, and is still on its way back.
    table.change = 1
    table.now += AGE + 0.1
    late = asyncio.create_task(table.book_of.current())
    await turn()
    table.gate.set()
    assert await late == 1


async def test_the_latest_is_as_of_now_and_forgets_nothing() -> None:
    table = Table()
    await table.book_of.start()
    table.change = 1
    assert await table.book_of.current() == 0
    assert await table.book_of.latest() == 1
    looks = table.looks
    assert await table.book_of.current() == 1
    assert table.looks == looks


async def test_without_the_database_nothing_is_answered_beyond_the_age() -> None:
    table = Table()
    await table.book_of.start()
    table.away = True
    table.now += AGE
    assert await table.book_of.current() == 0
    await turn()
    table.now += 0.001
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await table.book_of.current()
    table.away, table.change = False, 1
    assert await table.book_of.current() == 1


async def test_before_the_first_look_nothing_is_answered() -> None:
    table = Table()
    table.away = True
    with pytest.raises(UnavailableError):
        await table.book_of.current()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.sampled_from([0.1, 0.6, 1.6, 2.0, 500.0])),
            st.tuples(st.sampled_from(["change", "own change", "calls", "shut", "open"]), st.just(0.0)),
        ),
        max_size=40,
    )
)
async def test_no_answer_is_older_than_promised(sequence: list[tuple[str, float]]) -> None:
    table = Table()
    await table.book_of.start()
    changed_at = {0: table.now}
    waiting: list[tuple[int, asyncio.Task[int]]] = []
    for step, seconds in sequence:
        table.now += seconds
        if step in ("change", "own change"):
            table.change += 1
            changed_at[table.change] = table.now
            if step == "own change":
                table.book_of.forget()
        elif step == "calls":
            # What they may not miss: what changed longer ago, and what this process changed.
            oldest = max(
                change for change, moment in changed_at.items() if moment < table.now - AGE or not change
            )
            waiting += [(oldest, asyncio.create_task(table.book_of.current())) for _ in range(3)]
        elif step in ("shut", "open"):
            (table.gate.clear if step == "shut" else table.gate.set)()
        await turn()
    table.gate.set()
    for oldest, call in waiting:
        assert await call >= oldest
