"""Services as forks of one process that has imported them: a start costs a tenth of the processor time.

Everything but the start is as in production: each service is a process, with its own environment and log.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from meterline_dev.processes import ChildSpec, Supervisor

_PR_SET_CHILD_SUBREAPER: Final = 36
_PROGRAM: Final = (sys.executable, "-m")


@dataclass(frozen=True)
class Fork:
    """A forked process, which is a child of this one."""

    pid: int

    def wait(self) -> int:
        """Waits for the end; returns the exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Forks:
    """Forks services. Works on Linux only; see `tests.support.forked_service`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._origin = subprocess.Popen(
            [*_PROGRAM, "tests.support.forked_service", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # As a mesh sets it, since it is read when a program starts.
            env={**os.environ, "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._origin.communicate()

    def spawn(
        self, command: Sequence[str | Path], *, log_file: Path, env: Mapping[str, str] | None = None, **_: Any
    ) -> Fork:
        """Like `meterline_dev.spawn.spawn`, for `python -m MODULE ARGUMENT…`."""
        program, module, arguments = tuple(command[:2]), command[2], command[3:]
        assert program == _PROGRAM, command
        order = {
            "module": module,
            "arguments": list(map(str, arguments)),
            "env": dict(os.environ if env is None else env),
            "log": str(log_file),
        }
        assert self._origin.stdin is not None
        assert self._origin.stdout is not None
        with self._lock, _subreaper():
            self._origin.stdin.write(json.dumps(order).encode() + b"\n")
            self._origin.stdin.flush()
            return Fork(int(self._origin.stdout.readline()))


@contextmanager
def _subreaper() -> Iterator[None]:
    """While it is open, orphaned descendants become children of this process."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class ForkingSupervisor(Supervisor):
    """A supervisor whose children are forks."""

    def __init__(self, forks: Forks) -> None:
        super().__init__()
        self._forks = forks

    async def start(self, spec: ChildSpec) -> None:
        await super().start(replace(spec, spawn=self._forks.spawn))
