"""What the process does to its clients: it ends, and it forks."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from typing import Protocol


class Living(Protocol):
    """What is told."""

    def close(self) -> object: ...

    def _before_fork(self) -> None: ...

    def _after_fork_in_parent(self) -> None: ...

    def _after_fork_in_child(self) -> None: ...


_living: weakref.WeakSet[Living] = weakref.WeakSet()


def register(one: Living) -> None:
    """From now on it is told, for as long as something else holds it."""
    _living.add(one)


def _tell(act: Callable[[Living], object]) -> Callable[[], None]:
    def call() -> None:
        for one in list(_living):
            act(one)

    return call


atexit.register(_tell(lambda one: one.close()))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_tell(lambda one: one._before_fork()),
        after_in_parent=_tell(lambda one: one._after_fork_in_parent()),
        after_in_child=_tell(lambda one: one._after_fork_in_child()),
    )
