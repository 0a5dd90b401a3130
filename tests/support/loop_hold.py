"""How long single steps block an event loop, in processor time, which does not depend on other load."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Held:
    """The longest step so far, in seconds of its thread's processor time, and its description."""

    seconds: float = 0.0
    by: str = ""


@contextmanager
def held_loop() -> Iterator[Held]:
    """Watches every step of asyncio's own loop (not uvloop's) in this process."""
    held, run = Held(), asyncio.Handle._run

    def watched(handle: asyncio.Handle) -> None:
        started = time.thread_time()
        run(handle)
        seconds = time.thread_time() - started
        if seconds > held.seconds:
            held.seconds, held.by = seconds, name_of(handle)

    # Garbage collections do not count: they also process the objects of earlier tests.
    gc.disable()
    asyncio.Handle._run = watched  # type: ignore[method-assign, assignment]
    try:
        yield held
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
        gc.enable()


def name_of(handle: asyncio.Handle) -> str:
    """The name of the step's task. Not its `repr`, which would print the contents of futures."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    called: Any = owner.get_coro() if isinstance(owner, asyncio.Task) else type(callback)
    return str(called.__qualname__)


def reference_seconds() -> float:
    """The time that this machine currently needs for a fixed piece of work, about 10 ms on the machines of
    the published figures: the unit for limits on `Held`."""

    def work() -> Any:
        counts: dict[str, int] = {}
        for number in range(100_000):
            key = str(number % 997)
            counts[key] = counts.get(key, 0) + number
        return counts

    times = []
    for _ in range(5):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return sorted(times)[2]
