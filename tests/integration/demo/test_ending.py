"""Ctrl-C at any time ends all started processes."""

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
async def test_mesh_runs_after_the_demo_until_stopped(place: Path) -> None:
    running = Running(place, "--limit=400")
    try:
        await running.until("Ctrl-C ends all of it")
        assert "lost 0   doubled 0" in running.output()
        await assert_signal_ends_all_processes(running, signal.SIGINT)
    finally:
        running.end()
    await assert_no_process_left(running)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.req("X4")
async def test_mesh_runs_without_a_demo_until_stopped(place: Path) -> None:
    running = Running(place, "--no-demo")
    try:
        await running.until("Ctrl-C ends all of it")
        await assert_signal_ends_all_processes(running, signal.SIGTERM)
    finally:
        running.end()
    await assert_no_process_left(running)


async def assert_signal_ends_all_processes(running: Running, number: signal.Signals) -> None:
    """Asserts that a running mesh prints its addresses, and that the signal ends it with success."""
    for address in ("gRPC", "Postgres", "NATS", "Stripe"):
        assert address in running.output()
    assert await running.interrupted(number) == 0
    # Postgres, NATS, the double, four services, and Postgres's own child processes.
    assert running.started() > 7


async def assert_no_process_left(running: Running) -> None:
    await eventually(running.left, until=lambda left: left == [])
    assert list(running.temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.req("X4")
@pytest.mark.parametrize("moment", ["", "✓ Meterline on this machine", "Capture "])
async def test_interrupted_demo_leaves_no_process(place: Path, moment: str) -> None:
    running = Running(place)
    try:
        await running.until(moment)
        assert await running.interrupted(signal.SIGINT) == 130
    finally:
        running.end()
    await assert_no_process_left(running)
