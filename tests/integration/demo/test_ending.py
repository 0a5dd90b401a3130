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
async def test_it_runs_after_the_demo_until_it_is_told_to_end(place: Path) -> None:
    running = Running(place, "--limit=400")
    try:
        await running.until("Ctrl-C ends all of it")
        assert "lost 0   doubled 0" in running.output()
        await ends_all_of_it(running, signal.SIGINT)
    finally:
        running.end()
    await leaves_nothing(running)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.req("X4")
async def test_it_runs_without_a_demo_until_it_is_told_to_end(place: Path) -> None:
    running = Running(place, "--no-demo")
    try:
        await running.until("Ctrl-C ends all of it")
        await ends_all_of_it(running, signal.SIGTERM)
    finally:
        running.end()
    await leaves_nothing(running)


async def ends_all_of_it(running: Running, number: signal.Signals) -> None:
    """A mesh that runs says where everything is, and ends well."""
    for address in ("gRPC", "Postgres", "NATS", "Stripe"):
        assert address in running.output()
    assert await running.interrupted(number) == 0
    # Postgres, NATS, the double, four services, and what Postgres starts itself.
    assert running.started() > 7


async def leaves_nothing(running: Running) -> None:
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
    await leaves_nothing(running)
