"""`meterline dev` as a user runs it: its process, its output, and the processes that remain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.polling import eventually

METERLINE = Path(sys.executable).with_name("meterline")
SECONDS = 300


@dataclass(frozen=True)
class Stopped:
    """
    output: of both streams
    started: number of processes that it had started
    files: names of the temporary files that it left
    """

    code: int | None
    output: str
    started: int
    files: list[str]


class Running:
    """`meterline dev` in a separate process, with its whole output."""

    def __init__(self, place: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is added to that of this process."""
        self.temporary = place / "tmp"
        self.temporary.mkdir(mode=0o711)
        self._output = place / "output"
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [METERLINE, "dev", *options],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {}), "TMPDIR": str(self.temporary)},
                start_new_session=True,
            )
        self._seen: dict[int, psutil.Process] = {}

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    async def until(self, text: str) -> None:
        """Waits until it has started processes and written this text; records the processes."""
        seen = ""

        def look() -> bool:
            nonlocal seen
            assert self.process.poll() is None, self.output()[-3_000:]
            before, seen = seen, self.output()
            # It writes a line at each step. Listing all processes of the machine is slow.
            if seen != before or not self._seen:
                self.look()
            return bool(self._seen) and text in seen

        await eventually(look, seconds=SECONDS)

    def look(self) -> None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            self._seen.setdefault(child.pid, child)

    async def interrupted(self, number: signal.Signals) -> int | None:
        """Sends a signal like a terminal; returns the exit code."""
        self.look()
        self.process.send_signal(number)
        code: int | None = await eventually(self.process.poll, seconds=SECONDS, until=_is_known)
        return code

    async def stopped(self, number: signal.Signals) -> Stopped:
        """Like `interrupted`; waits too until no recorded process runs. AssertionError if one runs on."""
        code = await self.interrupted(number)
        await eventually(self.left, until=lambda left: left == [])
        files = [file.name for file in self.temporary.iterdir()]
        return Stopped(code, self.output(), len(self._seen), files)

    def left(self) -> list[str]:
        """The recorded processes that still run."""
        return [child.name() for child in self._seen.values() if _runs(child)]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def assert_mesh_ran_until_stopped(stopped: Stopped) -> None:
    """Asserts that a mesh printed its addresses, and that the signal ended it with success."""
    for address in ("gRPC", "Postgres", "NATS", "Stripe"):
        assert address in stopped.output
    assert stopped.code == 0
    # Postgres, NATS, the double, four services, and Postgres's own child processes.
    assert stopped.started > 7
    assert stopped.files == []


def _is_known(code: int | None) -> bool:
    return code is not None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
