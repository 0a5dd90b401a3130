"""`tasks.end` ends a task, however the task reacts to its cancellation."""

from __future__ import annotations

import asyncio

import pytest
from meterline import tasks

pytestmark = pytest.mark.req("T7.3")


async def test_waiting_task_is_cancelled() -> None:
    task = asyncio.create_task(asyncio.Event().wait())
    await tasks.end(task)
    assert task.cancelled()


async def test_finished_task_is_left_unchanged() -> None:
    task = asyncio.create_task(asyncio.sleep(0, "done"))
    await task
    await tasks.end(task)
    assert task.result() == "done"


async def test_error_during_cancellation_is_swallowed() -> None:
    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await tasks.end(task)
    assert isinstance(task.exception(), ZeroDivisionError)


async def test_task_that_swallows_a_cancellation_is_ended() -> None:
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
