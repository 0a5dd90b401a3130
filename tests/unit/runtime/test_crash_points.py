"""The configured crash point kills the process at its n-th pass; other points do nothing."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from meterline import crashpoints

pytestmark = pytest.mark.req("T7.3")

ROOT = Path(__file__).parents[3]

PROGRAM = """
from meterline.crashpoints import crash_point
for turn in range(1, 4):
    crash_point("bus.consumer.before_ack")
    print(turn, flush=True)
    crash_point("bus.consumer.after_ack")
"""


def passes_until_the_end(target: str) -> tuple[int, list[str]]:
    """The exit code, and the turns that reached their middle."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "METERLINE_CRASH_AT": target},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("target", "turns"),
    [
        ("bus.consumer.before_ack", []),
        ("bus.consumer.after_ack", ["1"]),
        ("bus.consumer.before_ack:2", ["1"]),
        ("bus.consumer.after_ack:3", ["1", "2", "3"]),
    ],
)
def test_process_is_killed_at_the_configured_pass(target: str, turns: list[str]) -> None:
    assert passes_until_the_end(target) == (-signal.SIGKILL, turns)


@pytest.mark.parametrize("target", ["", "bus.consumer.before_ack:4", "outbox.relay.after_commit"])
def test_other_points_and_later_passes_do_nothing(target: str) -> None:
    assert passes_until_the_end(target) == (0, ["1", "2", "3"])


def test_unknown_crash_point_is_refused() -> None:
    code, turns = passes_until_the_end("bus.consumer.before_akc")
    assert (code, turns) == (1, [])


def test_every_crash_point_in_the_code_is_listed() -> None:
    used = set()
    for source in [*ROOT.glob("libs/**/*.py"), *ROOT.glob("services/**/*.py")]:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "crash_point":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{source}: a crash point needs a constant name"
                used.add(name.value)
    assert used, "no crash point was found: does this test look in the right place?"
    assert used <= set(crashpoints.ALL)
