"""Pauses and rates by the monotonic clock, which all processes of a machine share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np


async def until(moment: float) -> None:
    """Waits until a moment of `time.monotonic`; returns immediately if it has passed."""
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
    """Calls `look` every `every` seconds until it returns true; False if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not await look():
        if time.monotonic() >= deadline:
            return False
        await until(time.monotonic() + every)
    return True


def rates(answers: Sequence[tuple[float, int]], started: float, seconds: float, width: float) -> list[float]:
    """Events a second in each whole slice of `width` seconds from `started`, over `seconds`.

    answers: (moment, events) of each answer; those after the last whole slice are not counted
    """
    edges = started + np.arange(int(seconds / width + 1e-6) + 1) * width
    moments, events = np.array(answers, np.float64).reshape(-1, 2).T
    counted, _ = np.histogram(moments, edges, weights=events)
    return [float(each) / width for each in counted]
