"""Ending tasks: however a task takes being cancelled, afterwards it has ended."""

from __future__ import annotations

import asyncio

import pytest
from meterline import tasks

pytestmark = pytest.mark.req("T7.3")


async def test_a_task_that_waits_is_ended() -> None:
    task = asyncio.create_task(asyncio.Event().wait())
    await tasks.end(task)
    assert task.cancelled()


async def test_a_task_that_has_ended_is_left_as_it_is() -> None:
    task = asyncio.create_task(asyncio.sleep(0, "done"))
    await task
    await tasks.end(task)
    assert task.result() == "done"


async def test_a_task_that_fails_while_it_ends_does_no_harm() -> None:
    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await tasks.end(task)
    assert isinstance(task.exception(), ZeroDivisionError)


async def test_a_task_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    lost = 0

    async def deaf_once() -> None:
        nonlocal lost
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf_once())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.end(task)
    assert lost == 1


class Work:
    """Ends when it is released, with `outcome`."""

    def __init__(self, outcome: int | Exception) -> None:
        self.outcome = outcome
        self.begun, self.released = asyncio.Event(), asyncio.Event()
        self.ended = False

    async def __call__(self) -> int:
        self.begun.set()
        await self.released.wait()
        self.ended = True
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def test_finish_answers_what_the_work_answers() -> None:
    work = Work(7)
    work.released.set()
    assert await tasks.finish(work()) == 7


@pytest.mark.parametrize("outcome", [7, ValueError("wrong")], ids=["answers", "fails"])
async def test_finish_ends_the_work_before_its_cancellation(outcome: int | Exception) -> None:
    work = Work(outcome)
    task = asyncio.create_task(tasks.finish(work()))
    await work.begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    work.released.set()
    with pytest.raises(ValueError if isinstance(outcome, Exception) else asyncio.CancelledError):
        await task
    assert work.ended


async def test_a_second_cancellation_ends_the_work_of_finish() -> None:
    work = Work(7)
    task = asyncio.create_task(tasks.finish(work()))
    await work.begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await tasks.end(task)
    assert task.cancelled()
    assert not work.ended
