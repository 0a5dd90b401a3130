"""Waiting for what happens elsewhere, with a deadline and without a guess at how long it takes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_PAUSE_SECONDS = 0.01


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
    """Looks again and again until what `look` answers satisfies `until`; returns that answer.

    Raises AssertionError, with the last answer, after `seconds`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        answer = look()
        value = await answer if inspect.isawaitable(answer) else answer
        if until(value):
            return value
        if loop.time() >= deadline:
            raise AssertionError(f"not within {seconds} s; last seen: {value!r}")
        await asyncio.sleep(_PAUSE_SECONDS)
