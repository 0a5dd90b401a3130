"""One child process as seen from an event loop: its start, its readiness, its end."""

import asyncio
import contextlib
import os
import re
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meterline_dev import logs
from meterline_dev.spawn import Spawned, spawn

Ready = Callable[[], Awaitable[bool]] | re.Pattern[str]
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run and how to treat it.

    `env` replaces the environment (None: inherit). `ready` is called until it is true, or is a pattern
    that some line of the output must match; without it the child counts as ready at once. Output, both
    streams, is appended to `log_file`.

    With `restart` a child that dies is started again, at most `max_restarts` times, after waits that
    double from `first_backoff` to `max_backoff` seconds.

    `spawn` creates the process; it takes what `meterline_dev.spawn.spawn` takes.
    """

    name: str
    argv: Sequence[str]
    log_file: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    ready: Ready | None = None
    ready_timeout: float = 30.0
    stop_grace: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    restart: bool = False
    max_restarts: int = 5
    first_backoff: float = 0.2
    max_backoff: float = 5.0
    spawn: Callable[..., Spawned] = spawn

    def backoff(self, restarts: int) -> float:
        """Seconds to wait before restart number `restarts` (the first is 0)."""
        return min(self.max_backoff, self.first_backoff * 2.0 ** min(restarts, 32))


class ChildFailedError(RuntimeError):
    """A child died, or was not ready in time; the message ends with the last lines of its log."""

    def __init__(self, name: str, reason: str, tail: str) -> None:
        super().__init__(f"{name} {reason}\n{tail}".rstrip())
        self.name = name
        self.reason = reason
        self.tail = tail


class ChildProcess:
    """A running child and its process group, which ends with it.

    Must be made inside the event loop that waits for it.
    """

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self._log_start = logs.size(spec.log_file)
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._popen = spec.spawn(
            spec.argv, log_file=spec.log_file, env=spec.env, cwd=spec.cwd, death_signal=spec.death_signal
        )
        # A thread, as waiting for a child is the one thing that every event loop and system does the same.
        threading.Thread(target=self._reap, name=f"wait-{spec.name}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id, also the id of its process group."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._exit.result() if self._exit.done() else None

    def tail(self, lines: int = 20) -> str:
        """The last lines of output of this run."""
        return logs.tail(self.spec.log_file, lines=lines, since=self._log_start)

    async def exited(self) -> int:
        """Wait for the end; answers the exit code."""
        return await asyncio.shield(self._exit)

    async def wait_ready(self) -> None:
        """Wait until the child serves. Raises ChildFailedError when it dies first or takes too long."""
        if self.spec.ready is None:
            return
        ready = self.spec.ready
        if isinstance(ready, re.Pattern):
            ready = self._line_seen(ready)
        try:
            async with asyncio.timeout(self.spec.ready_timeout) as limit:
                while not await self._answer(ready):
                    await asyncio.wait({self._exit}, timeout=_POLL_SECONDS)
        except TimeoutError:
            if not limit.expired():
                raise
            reason = f"was not ready in {self.spec.ready_timeout} s"
            raise ChildFailedError(self.spec.name, reason, self.tail()) from None

    async def stop(self, hurry: asyncio.Event | None = None) -> int:
        """SIGTERM, then SIGKILL to the whole group after the grace, or once `hurry` is set.

        Answers the exit code; harmless when it has ended.
        """
        self.send_signal(signal.SIGTERM)
        hurried = asyncio.ensure_future((hurry or asyncio.Event()).wait())
        try:
            either: set[asyncio.Future[Any]] = {self._exit, hurried}
            await asyncio.wait(either, timeout=self.spec.stop_grace, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
            self.kill_group()
        return await self.exited()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the child itself; harmless when it has ended."""
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL the child and whatever it started in its group; harmless when it has ended."""
        if not self._exit.done():
            _kill_group(self.pid)

    def failure(self) -> ChildFailedError:
        """The error that reports how this child ended."""
        code = self.exit_code
        reason = f"ended with code {code}" if code is None or code >= 0 else f"was killed by {_name(-code)}"
        return ChildFailedError(self.spec.name, reason, self.tail())

    async def _answer(self, ready: Callable[[], Awaitable[bool]]) -> bool:
        """Ask once; the death of the child ends a question that would wait for ever."""
        asked = asyncio.ensure_future(ready())
        try:
            either: set[asyncio.Future[Any]] = {asked, self._exit}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                if asked.result():
                    return True
                if not self._exit.done():
                    return False
            raise self.failure()
        finally:
            asked.cancel()

    def _line_seen(self, pattern: re.Pattern[str]) -> Callable[[], Awaitable[bool]]:
        """A question that reads on in the log where it stopped the last time."""
        offset, rest = self._log_start, ""

        async def seen() -> bool:
            nonlocal offset, rest
            text, offset = logs.read_from(self.spec.log_file, offset)
            *lines, rest = (rest + text).split("\n")
            return any(pattern.search(line) for line in lines)

        return seen

    def _reap(self) -> None:
        """Wait for the end, and take the rest of the group along: nothing outlives its leader."""
        if hasattr(os, "waitid"):
            # Not yet reaped, the dead leader keeps its number from going to another group.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            _kill_group(self.pid)
        code = self._popen.wait()
        # The loop may be gone by now, and with it everybody who would want to know.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._set_exit, code)

    def _set_exit(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
