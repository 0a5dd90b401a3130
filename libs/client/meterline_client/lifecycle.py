"""Handles the end and the forks of a process for its clients.

A process ends in one of these ways, and each calls something else:

- The interpreter ends (the script is over, sys.exit, an uncaught error): `atexit`.
- A child of multiprocessing ends: that calls os._exit, and before it the finalizers of multiprocessing. Those
  are cleared as the child begins, so the child registers them again. billiard, which is Celery's copy of
  multiprocessing, does the same.
- os._exit, SIGKILL, or a signal without a handler: nothing is called. What is in a spool is safe.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

log = logging.getLogger(__name__)

# multiprocessing runs finalizers from the highest down, and its own queues and pools, which may still hold
# what records, have those above it.
_LAST = -1_000


class Living(Protocol):
    """An object that is called before and after a fork, and closed at the end of the process."""

    def close(self) -> object: ...

    def _before_fork(self) -> None: ...

    def _after_fork_in_parent(self) -> None: ...

    def _after_fork_in_child(self) -> None: ...


class _Anchor:
    """multiprocessing calls what is registered for an object, for as long as that lives."""


@dataclass(slots=True)
class _End:
    """How far the end of this process has come."""

    closing: bool = False
    waiting: bool = False
    """A thread waits for others, to close the clients after them."""


_end = _End()
_anchor = _Anchor()
_living: weakref.WeakSet[Living] = weakref.WeakSet()
_held: set[Living] = set()
_anchored: set[str] = set()
_finalizers: dict[str, tuple[int, Any]] = {}


def register(one: Living) -> None:
    """Calls `one` at forks and at the end of the process, for as long as something else references it."""
    _living.add(one)
    _watch_multiprocessing()


def hold(one: Living) -> None:
    """Keeps a reference to `one`, so that it is called: it has events, and no thread yet to deliver them."""
    _held.add(one)


def is_closing() -> bool:
    """Whether the process ends and its clients are being closed."""
    return _end.closing


def exit_on_sigterm() -> bool:
    """Lets SIGTERM end this process as `sys.exit(143)` does, so that clients deliver what they hold.

    Python has no handler for SIGTERM of its own: the signal kills the process at once, and what is neither
    sent nor in a spool is lost. False, and nothing changed, when there is a handler or the signal is ignored.
    While clients are being closed, which takes a few seconds at the most, another one is ignored. Processes
    that are forked later have the handler, too. ValueError outside the main thread.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    signal.signal(signal.SIGTERM, _exit)
    return True


def _exit(number: int, frame: FrameType | None) -> None:
    if _end.closing:
        # It ends already. An error now would keep it from closing its clients.
        return
    if _end.waiting or _finalizes(frame):
        # After the error nothing waits for the threads that record still, or calls the other finalizers.
        _close_all()
    sys.exit(128 + number)


def _finalizes(frame: FrameType | None) -> bool:
    """Whether multiprocessing is about to call the finalizers of this process, or does."""
    ends = [util._exit_function.__code__ for util in _utils()]
    while frame is not None:
        if frame.f_code in ends:
            return True
        frame = frame.f_back
    return False


def _for_each_client(act: Callable[[Living], object]) -> None:
    for one in list(_living):
        try:
            act(one)
        except Exception:
            # One client's fault must not take from the others their chance to deliver.
            log.exception("a client failed as its process ended or forked")


def _close_all() -> None:
    _end.closing = True
    try:
        _for_each_client(lambda one: one.close())
    finally:
        _end.closing = False


def _utils() -> list[Any]:
    loaded = (multiprocessing.util, sys.modules.get("billiard.util"))
    return [util for util in loaded if util is not None]


def _watch_multiprocessing(_: object = None) -> None:
    for util in _utils():
        _watch(util)


def _watch(util: Any) -> None:
    name = util.__name__
    if name not in _anchored:
        _anchored.add(name)
        util.register_after_fork(_anchor, _watch_multiprocessing)
    process, finalizer = _finalizers.get(name, (0, None))
    # A finalizer is only called in the process that made it.
    if process != os.getpid() or not finalizer.still_active():
        finalizer = util.Finalize(None, _close_after_threads, exitpriority=_LAST)
        _finalizers[name] = os.getpid(), finalizer


def _close_after_threads() -> None:
    """multiprocessing finalizes before it waits for the threads that are not daemons, and those may record
    until they end. A thread of the same kind, which it waits for as well, closes the clients after them."""
    if not _others():
        _close_all()
        return
    try:
        threading.Thread(target=_wait_and_close, name="meterline-client-end").start()
        _end.waiting = True
    except RuntimeError:
        log.exception("threads that record still may find their client closed")
        _close_all()


def _wait_and_close() -> None:
    while others := _others():
        for thread in others:
            thread.join()
    _close_all()


def _others() -> list[threading.Thread]:
    """Threads that the process waits for before it ends, but for the one that ends it."""
    ours = (threading.main_thread(), threading.current_thread())
    return [one for one in threading.enumerate() if not one.daemon and one not in ours]


def _before_fork() -> None:
    # If billiard starts this child, it is imported by now.
    _watch_multiprocessing()
    _for_each_client(lambda one: one._before_fork())


def _after_fork_in_child() -> None:
    _end.closing = _end.waiting = False
    _held.clear()
    _watch_multiprocessing()
    _for_each_client(lambda one: one._after_fork_in_child())


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _for_each_client(lambda one: one._after_fork_in_parent()),
        after_in_child=_after_fork_in_child,
    )
