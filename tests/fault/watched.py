"""`python -m tests.fault.watched SERVICE FILE`: runs the service and records in FILE every long step of its
event loop, one JSON line each: seconds of its thread's processor time, and a description.

It runs on asyncio's own loop, whose steps can be watched. The time of garbage collections is subtracted.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Final

import uvloop

from tests.support.loop_hold import name_of

# Shorter steps are not recorded.
_WORTH_SECONDS: Final = 0.02


class Collections:
    """The total time of garbage collections on this thread, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._thread = threading.get_ident()
        self._started = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _: object) -> None:
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._started = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._started


def watch(path: Path) -> None:
    """Must be called on the thread of the loop."""
    run, collections = asyncio.Handle._run, Collections()

    def watched(handle: asyncio.Handle) -> None:
        started = time.thread_time() - collections.seconds
        run(handle)
        seconds = time.thread_time() - collections.seconds - started
        if seconds >= _WORTH_SECONDS:
            with path.open("a") as file:
                file.write(json.dumps({"seconds": seconds, "by": name_of(handle)}) + "\n")

    asyncio.Handle._run = watched  # type: ignore[method-assign, assignment]
    vars(uvloop)["run"] = asyncio.run


if __name__ == "__main__":
    service, place = sys.argv[1:]
    watch(Path(place))
    importlib.import_module(f"meterline_{service}.main").main()
