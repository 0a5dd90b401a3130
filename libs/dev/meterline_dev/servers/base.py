"""The lifecycle that the servers share: start, stop, restart, kill, each harmless when repeated."""

import abc
import contextlib
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from meterline_dev import logs, procstat
from meterline_dev.servers.claim import DirectoryClaim
from meterline_dev.servers.ports import LOOPBACK, PortLease, reserve_port

_POLL_SECONDS = 0.01
_PORT_ATTEMPTS = 5
_GONE_SECONDS = 5.0


class ServerError(RuntimeError):
    """A server did not start or stop; the message ends with the last lines of its log."""


class _PortTakenError(ServerError):
    """Another program listens on the port."""


class Server(abc.ABC):
    """A server process of this process's own, in a directory of its own, on a port of its own.

    It dies with this process, however that ends (on Linux the kernel ends it; elsewhere the next
    start in the same directory ends a left server). Methods block, and may be called from any thread.

    The port stays the same over stop, restart and kill, so that clients find the server again; `close`,
    or the end of the `with` block, gives it back.
    """

    kind: ClassVar[str]
    # Signals that stop the server, from gentle to forced, each with the seconds to wait after it.
    stop_signals: ClassVar[tuple[tuple[signal.Signals, float], ...]]
    death_signal: ClassVar[signal.Signals]

    def __init__(self, directory: Path, port: int, log_file: Path, start_timeout: float) -> None:
        self.host = LOOPBACK
        self.log_file = log_file
        self.directory = directory
        self._asked_port = port
        self._lease: PortLease | None = None
        self._start_timeout = start_timeout
        self._claim = DirectoryClaim(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._has_served = False
        self._lifecycle = threading.RLock()

    @property
    def port(self) -> int:
        """The TCP port: the one asked for, or one reserved on first use."""
        if self._asked_port:
            return self._asked_port
        if self._lease is None:
            self._lease = reserve_port()
        return self._lease.port

    @property
    def running(self) -> bool:
        """Whether the process runs; it may have died by itself."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id. Raises ServerError when the server does not run."""
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"{self.kind} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until clients are served; harmless when it runs already.

        Raises ServerError (with the log's tail) when it dies or is not ready in time, and
        DirectoryInUseError when another process manages the directory.
        """
        with self._lifecycle:
            if self.running:
                return
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            self._claim.take()
            try:
                logs.rotate(self.log_file)
                self._end_leftover()
                self._prepare()
                self._start_on_some_port()
            except BaseException:
                self._end()
                raise

    def stop(self) -> None:
        """Stop and wait until it is gone; data and port are kept. Harmless when it does not run."""
        with self._lifecycle:
            self._end()

    def restart(self) -> None:
        """Stop, then start on the same port with the same data."""
        with self._lifecycle:
            self.stop()
            self.start()

    def kill(self) -> None:
        """SIGKILL the server and everything it started, as a crash would; then `start` brings it back."""
        with self._lifecycle:
            self._abandon()

    def close(self) -> None:
        """Stop and give the port back."""
        with self._lifecycle:
            self.stop()
            if self._lease is not None:
                self._lease.release()
                self._lease = None
            self._has_served = False

    def cpu_seconds(self) -> float:
        """CPU seconds used by the server and its workers since it started."""
        return procstat.cpu_seconds(self.pid)

    def rss_bytes(self) -> int:
        """Resident memory of the server and its workers; shared pages count for each of them."""
        return procstat.rss_bytes(self.pid)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the server logged since its latest start."""
        return logs.tail(self.log_file, lines=lines, since=self._log_start)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abc.abstractmethod
    def _end_leftover(self) -> None:
        """End what a dead owner of the directory left running; called with the claim held."""

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Make the directory ready for a first or a later start."""

    @abc.abstractmethod
    def _launch(self) -> "subprocess.Popen[bytes]":
        """Start the process on `port`."""

    @abc.abstractmethod
    def _is_ready(self) -> bool:
        """Whether clients are served now."""

    def _clean_up(self) -> None:
        """Remove what only a running server needs. The default has nothing to remove."""
        return

    def _start_on_some_port(self) -> None:
        for attempt in range(_PORT_ATTEMPTS):
            try:
                self._start_once()
            except _PortTakenError:
                # A port that was given, or that clients already use, must not change.
                if self._asked_port or self._has_served or attempt == _PORT_ATTEMPTS - 1:
                    raise
                self._change_port()
            else:
                self._has_served = True
                return

    def _change_port(self) -> None:
        taken, self._lease = self._lease, reserve_port()
        if taken is not None:
            taken.release()

    def _start_once(self) -> None:
        self._log_start = logs.size(self.log_file)
        self._process = self._launch()
        deadline = time.monotonic() + self._start_timeout
        while not self._is_ready():
            code = self._process.poll()
            if code is not None:
                raise self._died(code)
            if time.monotonic() > deadline:
                raise ServerError(f"{self.kind} was not ready in {self._start_timeout} s\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def _died(self, code: int) -> ServerError:
        tail = self.log_tail()
        kind = _PortTakenError if "address already in use" in tail.lower() else ServerError
        return kind(f"{self.kind} ended with code {code} while starting\n{tail}")

    def _end(self) -> None:
        """Stop the process by ever stronger signals, and the rest of its group."""
        for stop_signal, seconds in self.stop_signals:
            if self._process is None or self._process.poll() is not None:
                break
            self._process.send_signal(stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self._abandon()

    def _abandon(self) -> None:
        """Leave nothing running and no claim held, whatever state things are in."""
        if self._process is not None and self._process.poll() is None:
            workers = procstat.tree(self._process.pid)[1:]
            self._process.kill()
            self._process.wait()
            procstat.kill(workers)
            procstat.wait_gone(workers, _GONE_SECONDS)
        self._process = None
        self._clean_up()
        self._claim.drop()
