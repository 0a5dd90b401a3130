"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels `task` and waits until it has ended; its outcome, a failure too, is passed over.

    To cancel once is not enough: `asyncio.wait_for`, which client libraries use, loses a cancellation that
    comes as its work ends.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)
    if not task.cancelled():
        task.exception()  # else it would be reported as never looked at
