"""Ctrl-C at any time ends all started processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from meterline_dev.testing import scratch_directory

from tests.support.dev_process import SECONDS, Running


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch_directory() as directory:
        yield directory


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.req("X4")
@pytest.mark.parametrize("moment", ["", "✓ Meterline on this machine", "Capture "])
async def test_interrupted_demo_leaves_no_process(place: Path, moment: str) -> None:
    running = Running(place, "--limit=400")
    try:
        await running.until(moment)
        stopped = await running.stopped(signal.SIGINT)
    finally:
        running.end()
    assert stopped.code == 130
    assert stopped.files == []
