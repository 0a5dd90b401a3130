"""A supervisor of child processes, for a mesh that runs on one machine.

Children are in sessions of their own, so that Ctrl-C reaches the supervisor alone, which then stops
them in reverse order. When the supervisor itself is killed the kernel ends them (see `spawn`).
"""

import asyncio
import signal
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from meterline_dev import procstat
from meterline_dev.child import ChildFailedError, ChildProcess, ChildSpec

__all__ = ["ChildFailedError", "ChildSpec", "Supervisor"]


@dataclass(slots=True)
class _Entry:
    """One name under supervision: the latest process of it, and the task that watches it."""

    spec: ChildSpec
    process: ChildProcess
    restarts: int = 0
    stopping: bool = False
    watch: asyncio.Task[None] | None = None


class Supervisor:
    """Starts named children, watches them, and stops them in reverse order of their start.

    Used as `async with Supervisor() as mesh: await mesh.start(ChildSpec(...))`. All methods belong to the
    event loop that it was made in. Names that are not known raise KeyError.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._failures: list[ChildFailedError] = []
        self._failed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._caught: tuple[signal.Signals, ...] = ()

    async def start(self, spec: ChildSpec) -> None:
        """Start a child and wait until it is ready.

        Raises ChildFailedError when it dies first or is not ready in time (it is stopped then),
        FileNotFoundError when there is no such program, and ValueError when the name is running already.
        """
        if spec.name in self._entries and self.running(spec.name):
            raise ValueError(f"{spec.name} is running already")
        spec.log_file.parent.mkdir(parents=True, exist_ok=True)
        # A name that was there before keeps its place in the order of stopping.
        self._entries[spec.name] = entry = _Entry(spec, ChildProcess(spec))
        try:
            await entry.process.wait_ready()
        except BaseException:
            entry.stopping = True
            await entry.process.stop(self._hurry)
            raise
        entry.watch = asyncio.create_task(self._watch(entry), name=f"watch-{spec.name}")

    async def stop(self, name: str | None = None) -> None:
        """Stop one child, or all in reverse order: SIGTERM, the child's grace, SIGKILL. Repeatable."""
        if name is not None:
            await self._stop(self._entries[name])
            return
        for entry in reversed(list(self._entries.values())):
            await self._stop(entry)
        self._release_signals()

    async def kill(self, name: str) -> None:
        """SIGKILL a child and its group and wait for the end, which then counts as asked for."""
        entry = self._entries[name]
        entry.stopping = True
        entry.process.kill_group()
        await self._stop(entry)

    async def restart(self, name: str) -> None:
        """Stop a child, if it runs, and start it again as it was specified."""
        entry = self._entries[name]
        await self._stop(entry)
        await self.start(entry.spec)

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a child; if that ends it, it counts as having died by itself."""
        self._entries[name].process.send_signal(number)

    async def exited(self, name: str) -> int:
        """Wait for the end of a child's present process; answers its exit code, negative for a signal."""
        return await self._entries[name].process.exited()

    async def failure(self) -> ChildFailedError:
        """Wait until a child has died for good (restarts used up) without being asked to."""
        await self._failed.wait()
        return self._failures[0]

    async def run(self, *signals: signal.Signals) -> signal.Signals:
        """Wait for SIGINT or SIGTERM (or the `signals` given) and answer which one came.

        A second signal, while children are being stopped, ends them without grace. Raises
        ChildFailedError when a child dies for good before.
        """
        came = self._catch_signals(signals or (signal.SIGINT, signal.SIGTERM))
        failure = asyncio.create_task(self.failure())
        try:
            either: set[asyncio.Future[Any]] = {came, failure}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failure.cancel()
        if not came.done():
            raise self._failures[0]
        return came.result()

    def names(self) -> list[str]:
        """All names that were started, in that order."""
        return list(self._entries)

    def running(self, name: str) -> bool:
        """Whether the child's process runs at this moment."""
        return self._entries[name].process.exit_code is None

    def pid(self, name: str) -> int:
        """Process id of the latest process of that name."""
        return self._entries[name].process.pid

    def restarts(self, name: str) -> int:
        """How often the restart policy has started it again."""
        return self._entries[name].restarts

    def log_tail(self, name: str, lines: int = 20) -> str:
        """The last lines of output of the latest process of that name."""
        return self._entries[name].process.tail(lines)

    def cpu_seconds(self, name: str) -> float:
        """CPU seconds of the present process and its children. Raises ProcessLookupError when it is gone."""
        return procstat.cpu_seconds(self.pid(name))

    def rss_bytes(self, name: str) -> int:
        """Resident bytes of the present process and its children. Raises ProcessLookupError likewise."""
        return procstat.rss_bytes(self.pid(name))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _stop(self, entry: _Entry) -> None:
        entry.stopping = True
        await entry.process.stop(self._hurry)
        if entry.watch is not None:
            entry.watch.cancel()
            await asyncio.wait({entry.watch})

    async def _watch(self, entry: _Entry) -> None:
        """Restart the child for as long as its policy allows; then report its death."""
        while True:
            await entry.process.exited()
            if entry.stopping:
                return
            failure = entry.process.failure()
            if not await self._revived(entry):
                self._failures.append(failure)
                self._failed.set()
                return

    async def _revived(self, entry: _Entry) -> bool:
        spec = entry.spec
        while spec.restart and entry.restarts < spec.max_restarts:
            await asyncio.sleep(spec.backoff(entry.restarts))
            if entry.stopping:
                return True
            entry.restarts += 1
            entry.process = ChildProcess(spec)
            try:
                await entry.process.wait_ready()
            except ChildFailedError:
                entry.process.kill_group()
                await entry.process.exited()
            else:
                return True
        return False

    def _catch_signals(self, signals: tuple[signal.Signals, ...]) -> asyncio.Future[signal.Signals]:
        """Catch the signals until all has stopped: the first fills the future, later ones hurry the stop."""
        loop = asyncio.get_running_loop()
        came: asyncio.Future[signal.Signals] = loop.create_future()

        def handle(number: signal.Signals) -> None:
            if came.done():
                self._hurry.set()
            else:
                came.set_result(number)

        for number in signals:
            loop.add_signal_handler(number, handle, number)
        self._caught = signals
        return came

    def _release_signals(self) -> None:
        for number in self._caught:
            asyncio.get_running_loop().remove_signal_handler(number)
        self._caught = ()
