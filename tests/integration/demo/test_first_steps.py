"""The commands of docs/first-steps.md print the output that the page shows."""

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

from tests.support.dev_process import Running

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


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with those files of the project that the page uses."""
    with scratch_directory() as directory:
        (directory / ".venv").symlink_to(sys.prefix)
        yield directory


@pytest.mark.slow
@pytest.mark.timeout(2 * _SECONDS)
async def test_first_steps_end_in_an_explained_invoice(place: Path) -> None:
    options, steps = read(PAGE.read_text(encoding="utf-8"))
    options = [str(place / option) if option == ".meterline" else option for option in options]
    running = Running(place, *options)
    try:
        await running.until("Ctrl-C ends all of it")
        typed = await asyncio.to_thread(run, script(steps), place)
        assert typed.returncode == 0, typed.stdout[-2_000:] + typed.stderr[-4_000:]
        left = typed.stdout
        for at, step in enumerate(steps):
            printed, _, left = left.partition(_END.format(at))
            lines = {line.strip().rstrip(",") for line in printed.splitlines()}
            assert set(step.printed) <= lines, printed
        assert await running.interrupted(signal.SIGINT) == 0
    finally:
        running.end()


def test_page_is_parsed_into_steps() -> None:
    page = 'a\n```console\n$ make run ARGS="--x y"\n```\n```sh\none\n```\n```json\n1\n```\n```sh\ntwo\n```\n'
    assert read(page) == (["--x", "y"], [Step("one\n", ["1"]), Step("two\n", [])])
