"""Waiting for a condition in another process, by polling with a deadline."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

# Limits of the pause between two polls, which is a twentieth of the time waited so far.
_LEAST_PAUSE_SECONDS = 0.01
_MOST_PAUSE_SECONDS = 0.1


@overload
async def eventually(
    look: Callable[[], Awaitable[T]], *, seconds: float = ..., until: Callable[[T], object] = ...
) -> T: ...


@overload
async def eventually(
    look: Callable[[], T], *, seconds: float = ..., until: Callable[[T], object] = ...
) -> T: ...


async def eventually(
    look: Callable[[], Any], *, seconds: float = 60.0, until: Callable[[Any], object] = bool
) -> Any:
    """Calls `look` repeatedly until its answer satisfies `until`; returns that answer.

    Raises AssertionError, with the last answer, after `seconds`.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    while True:
        answer = look()
        value = await answer if inspect.isawaitable(answer) else answer
        if until(value):
            return value
        waited = loop.time() - started
        if waited >= seconds:
            raise AssertionError(f"not within {seconds} s; last seen: {value!r}")
        await asyncio.sleep(min(max(waited / 20, _LEAST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS))
