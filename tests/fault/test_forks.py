"""The forks that fault tests run in place of newly started services: each is a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import Fork, Forks

pytestmark = [
    pytest.mark.fault,
    pytest.mark.req("X7"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper"),
]


def report_of(forks: Forks, log: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    fork = forks.spawn(
        [sys.executable, "-m", "tests.fault.fork_report", *arguments], log_file=log, env=environment
    )
    assert fork.wait() == 3
    return {"pid": fork.pid, **json.loads(log.read_text())}


def test_fork_has_its_own_environment_arguments_and_session(forks: Forks, tmp_path: Path) -> None:
    crash_at = {"METERLINE_CRASH_AT": "bus.consumer.before_ack:2"}
    report = report_of(forks, tmp_path / "log", "one", "two", **crash_at)
    assert report["arguments"] == ["one", "two"]
    assert report["environment"] == crash_at
    assert report["crash_at"] == "bus.consumer.before_ack:2"
    assert report["parent"] == os.getpid()
    assert report["session"] == report["pid"]
    assert report_of(forks, tmp_path / "second")["crash_at"] == ""


def test_forks_share_no_randomness(forks: Forks, tmp_path: Path) -> None:
    first, second = (report_of(forks, tmp_path / name) for name in ("first", "second"))
    assert [a for a, b in zip(first["unique"], second["unique"], strict=True) if a == b] == []


def test_killed_fork_ends_with_the_signal(forks: Forks, tmp_path: Path) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)
    # The fork waits for a reader of its log.
    fork: Fork = forks.spawn([sys.executable, "-m", "tests.fault.fork_report"], log_file=log, env={})
    os.kill(fork.pid, signal.SIGKILL)
    assert fork.wait() == -signal.SIGKILL
