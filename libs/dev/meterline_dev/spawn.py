"""Start child processes that cannot outlive this one.

On Linux the kernel signals a child when the thread that created it ends (PR_SET_PDEATHSIG), so that
SIGKILL of this process leaves nothing running. Because it is the thread that counts, not the process,
all children are created by one thread that lives as long as the process: a server may then be started
from a worker thread or an event loop that ends long before the server should.

Elsewhere there is no such signal. There, the next process that uses the same directory ends the servers
left in it (see `meterline_dev.servers.base`).
"""

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_LAUNCH = Path(__file__).with_name("_launch.py")
_Job = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system account that a child runs under, instead of root.

    `capability` is the number of the one Linux capability that the child keeps, or None.
    """

    uid: int
    gid: int
    capability: int | None = None


class Spawned(Protocol):
    """A created child."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def wait(self) -> int:
        """Wait for its end; answers the exit code, negative for a signal."""


class _Spawner:
    """One thread that creates every child, and never ends before the process does."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="meterline-spawn", daemon=True).start()

    def call(self, job: Callable[[], "subprocess.Popen[bytes]"]) -> "subprocess.Popen[bytes]":
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, answer))
        return answer.result()

    def _serve(self) -> None:
        while True:
            job, answer = self._jobs.get()
            try:
                answer.set_result(job())
            except BaseException as error:  # noqa: BLE001 - the caller raises it; this thread must live on
                answer.set_exception(error)


_lock = threading.Lock()
_spawners: dict[int, _Spawner] = {}


def _spawner() -> _Spawner:
    """The spawner of this process; a forked copy of this process has to get its own."""
    with _lock:
        pid = os.getpid()
        if pid not in _spawners:
            _spawners.clear()
            _spawners[pid] = _Spawner()
        return _spawners[pid]


def spawn(
    command: Sequence[str | Path],
    *,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> "subprocess.Popen[bytes]":
    """Start `command` in a session of its own, its output appended to `log_file`.

    `env` replaces the environment (None: inherit it). `account` needs root. `death_signal` is what the
    child gets when this process dies, however it dies. A session of its own keeps Ctrl-C from reaching
    the child: this process alone decides when it stops.

    Raises FileNotFoundError when there is no such program.
    """
    program = shutil.which(str(command[0]))
    if program is None:
        raise FileNotFoundError(f"no program {command[0]}")
    orders = (os.getpid(), death_signal, *_account_orders(account))
    line = [sys.executable, "-I", "-S", str(_LAUNCH), *(str(int(order)) for order in orders)]
    line += [os.path.abspath(program), *(str(part) for part in command[1:])]

    def create() -> "subprocess.Popen[bytes]":
        # Logs quote data; they are for the owner's eyes.
        with open(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            return subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    return _spawner().call(create)


def _account_orders(account: Account | None) -> tuple[int, int, int]:
    if account is None:
        return (-1, -1, -1)
    return (account.uid, account.gid, -1 if account.capability is None else account.capability)
