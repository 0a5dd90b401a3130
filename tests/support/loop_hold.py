"""How long single steps hold an event loop, in processor time, so that a busy machine changes nothing."""

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
    """The longest step so far, in seconds of its thread's processor time, and what it was."""

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

    # A collection belongs to no step, and goes through all that the tests before this one have left.
    gc.disable()
    asyncio.Handle._run = watched  # type: ignore[method-assign, assignment]
    try:
        yield held
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
        gc.enable()


def name_of(handle: asyncio.Handle) -> str:
    """What it is a step of. Not its `repr`, which writes out whatever a future holds."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    called: Any = owner.get_coro() if isinstance(owner, asyncio.Task) else type(callback)
    return str(called.__qualname__)


def reference_seconds() -> float:
    """What this machine needs now for some work of fixed size that takes about 10 ms on the machines of the
    published figures: the unit in which `Held` is judged."""

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
