"""The commands of docs/first-steps.md, on a mesh without a demo, print the output that the page shows."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from meterline_dev.testing import scratch_directory

from tests.support.dev_process import Running, Stopped, assert_mesh_ran_until_stopped

pytestmark = pytest.mark.req("X4", "S1")

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "first-steps.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = "-- end of step {} --"
_SECONDS = 300


@dataclass(frozen=True)
class Step:
    """Lines that are typed together, and lines that the output must then contain."""

    typed: str
    printed: list[str]


@dataclass(frozen=True)
class Session:
    """typed: the shell that ran all steps; stopped: the mesh, after them"""

    steps: list[Step]
    typed: subprocess.CompletedProcess[str]
    stopped: Stopped


def read(page: str) -> tuple[list[str], list[Step]]:
    """Parses a page into the options of the mesh and its steps."""
    options: list[str] = []
    steps: list[Step] = []
    for kind, text in _BLOCK.findall(page):
        if kind == "console":
            (arguments,) = re.findall(r'ARGS="([^"]*)"', text)
            options = shlex.split(arguments)
        elif kind == "sh":
            steps.append(Step(text, []))
        else:
            steps[-1].printed.extend(text.splitlines())
    return options, steps


def script(steps: list[Step]) -> str:
    return "".join(f"{step.typed}\necho '{_END.format(at)}'\n" for at, step in enumerate(steps))


def run(typed: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Runs the typed lines in `place`, in a shell without settings of Meterline."""
    return subprocess.run(
        ["bash", "-euc", typed],
        cwd=place,
        env={name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """The page's commands on the page's mesh, which is then stopped."""
    options, steps = read(PAGE.read_text(encoding="utf-8"))
    with scratch_directory() as place:
        yield asyncio.run(follow(options, steps, place))


async def follow(options: list[str], steps: list[Step], place: Path) -> Session:
    # A folder with those files of the project that the page uses.
    (place / ".venv").symlink_to(sys.prefix)
    options = [str(place / option) if option == ".meterline" else option for option in options]
    running = Running(place, *options)
    try:
        await running.until("Ctrl-C ends all of it")
        typed = await asyncio.to_thread(run, script(steps), place)
        return Session(steps, typed, await running.stopped(signal.SIGTERM))
    finally:
        running.end()


@pytest.mark.slow
@pytest.mark.timeout(2 * _SECONDS)
def test_first_steps_end_in_an_explained_invoice(session: Session) -> None:
    typed = session.typed
    assert typed.returncode == 0, typed.stdout[-2_000:] + typed.stderr[-4_000:]
    left = typed.stdout
    for at, step in enumerate(session.steps):
        printed, _, left = left.partition(_END.format(at))
        lines = {line.strip().rstrip(",") for line in printed.splitlines()}
        assert set(step.printed) <= lines, printed


@pytest.mark.slow
@pytest.mark.timeout(2 * _SECONDS)
def test_mesh_runs_without_a_demo_until_stopped(session: Session) -> None:
    assert_mesh_ran_until_stopped(session.stopped)
    assert "lost 0" not in session.stopped.output


def test_page_is_parsed_into_steps() -> None:
    page = 'a\n```console\n$ make run ARGS="--x y"\n```\n```sh\none\n```\n```json\n1\n```\n```sh\ntwo\n```\n'
    assert read(page) == (["--x", "y"], [Step("one\n", ["1"]), Step("two\n", [])])
