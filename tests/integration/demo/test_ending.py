"""Ctrl-C, whenever it comes, ends everything that was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from meterline_dev.testing import scratch_directory

from tests.support.polling import eventually

METERLINE = Path(sys.executable).with_name("meterline")
SECONDS = 300


class Running:
    """`meterline dev` in a process of its own, with everything that it writes."""

    def __init__(self, place: Path, *options: str) -> None:
        self.temporary = place / "tmp"
        self.temporary.mkdir(mode=0o711)
        self._output = place / "output"
        with self._output.open("wb") as file:
            self.process = subprocess.Popen(
                [METERLINE, "dev", *options],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                start_new_session=True,
            )
        self._seen: dict[int, psutil.Process] = {}

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    async def until(self, text: str) -> None:
        """Until it has started something and written this; keeps in mind what it started until then."""

        def look() -> bool:
            assert self.process.poll() is None, self.output()[-3_000:]
            self.look()
            return bool(self._seen) and text in self.output()

        await eventually(look, seconds=SECONDS)

    def look(self) -> None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            self._seen.setdefault(child.pid, child)

    async def interrupted(self, number: signal.Signals) -> int | None:
        """Sends the signal as a terminal does, and answers with the exit code."""
        self.look()
        self.process.send_signal(number)
        code: int | None = await eventually(self.process.poll, seconds=SECONDS, until=_is_known)
        return code

    def left(self) -> list[str]:
        """What it started and still runs."""
        return [child.name() for child in self._seen.values() if _runs(child)]

    def started(self) -> int:
        return len(self._seen)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _is_known(code: int | None) -> bool:
    return code is not None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch_directory() as directory:
        yield directory


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.req("X4")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_runs_until_it_is_told_to_end(place: Path, number: signal.Signals) -> None:
    running = Running(place, "--limit=400")
    try:
        await running.until("Ctrl-C ends all of it")
        assert "lost 0   doubled 0" in running.output()
        for address in ("gRPC", "Postgres", "NATS", "Stripe"):
            assert address in running.output()
        assert await running.interrupted(number) == 0
    finally:
        running.end()
    # Postgres, NATS, the double, four services, and what Postgres starts itself.
    assert running.started() > 7
    await eventually(running.left, until=lambda left: left == [])
    assert list(running.temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.req("X4")
@pytest.mark.parametrize("moment", ["", "✓ Meterline on this machine", "Capture "])
async def test_an_interrupted_demo_leaves_nothing_behind(place: Path, moment: str) -> None:
    running = Running(place)
    try:
        await running.until(moment)
        assert await running.interrupted(signal.SIGINT) == 130
    finally:
        running.end()
    await eventually(running.left, until=lambda left: left == [])
    assert list(running.temporary.iterdir()) == []
