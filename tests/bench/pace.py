"""Moments of the monotonic clock, which all processes of a machine share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


async def until(moment: float) -> None:
    """Waits for a moment of `time.monotonic`; returns at once when it has passed."""
    left = moment - time.monotonic()
    if left > 0:
        loop = asyncio.get_running_loop()
        reached = asyncio.Event()
        handle = loop.call_later(left, reached.set)
        try:
            await reached.wait()
        finally:
            handle.cancel()


async def poll(look: Callable[[], Awaitable[bool]], *, every: float, seconds: float) -> bool:
    """Looks, with pauses of `every` seconds, until `look` is content; False when it is not in `seconds`."""
    deadline = time.monotonic() + seconds
    while not await look():
        if time.monotonic() >= deadline:
            return False
        await until(time.monotonic() + every)
    return True
