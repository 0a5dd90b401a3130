"""Ctrl-C, whenever it comes, ends everything that was started."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from meterline_dev.testing import scratch_directory

from tests.support.dev_process import SECONDS, Running
from tests.support.polling import eventually


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
