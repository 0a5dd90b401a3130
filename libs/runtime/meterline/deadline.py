"""How long the caller of the current call still waits."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

# Seconds left of the call that is being served; a statement never outlives its caller.
time_left: ContextVar[Callable[[], float | None] | None] = ContextVar("time_left", default=None)
