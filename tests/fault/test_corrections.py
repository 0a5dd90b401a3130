"""Corrections under load and kills: the remaining events are counted exactly."""

from __future__ import annotations

import asyncio
import sys

import pytest
from meterline_dev.mesh import Mesh

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.corrections_load import CorrectionsLoad
from tests.fault.load import Expected, Reporter, assert_exact, is_exact

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600), pytest.mark.req("T3.4", "X7")]

SHORT = (
    ("ingest", "ingest.correct.after_commit"),
    ("ingest", "ingest.correct.before_commit"),
    ("aggregate", "bus.consumer.before_ack"),
)
LONG = (
    *SHORT,
    ("ingest", "unit_of_work.before_commit"),
    ("ingest", "unit_of_work.after_commit"),
    ("ingest", "outbox.relay.before_publish"),
    ("ingest", "outbox.relay.after_publish"),
    ("aggregate", "unit_of_work.before_commit"),
    ("aggregate", "unit_of_work.after_commit"),
)


async def kill_at(mesh: Mesh, service: str, point: str) -> None:
    """Restarts the service so that it dies at `point`, waits for its death, and starts it again."""
    await mesh.supervisor.stop(service)
    await mesh.start_service(service, METERLINE_CRASH_AT=f"{point}:3")
    async with asyncio.timeout(60):
        assert await mesh.supervisor.exited(service) == -9
    await mesh.start_service(service)


async def test_corrections_are_exact_after_kills_of_any_service(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    expected, stop = Expected(), asyncio.Event()
    long = lengths.rounds > 3
    async with start_mesh() as mesh:
        reporter = Reporter(mesh, expected)
        corrections = CorrectionsLoad(mesh, expected)
        load = [
            asyncio.create_task(reporter.run_until(stop)),
            asyncio.create_task(corrections.run_until(stop)),
        ]
        for service, point in LONG if long else SHORT:
            await asyncio.gather(reporter.more(100), corrections.more(20))
            await kill_at(mesh, service, point)
        while reporter.acknowledged < lengths.events:
            await reporter.more(100)
        await corrections.more(20)
        stop.set()
        await asyncio.gather(*load)
        await assert_exact(mesh, expected)
        assert corrections.repeated > 0


@pytest.mark.planted
async def test_publishing_a_correction_before_its_commit_is_caught(start_mesh: MakeMesh) -> None:
    expected, stop = Expected(), asyncio.Event()
    program = [sys.executable, "-m", "tests.fault.planted.publish_before_commit"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        corrections = CorrectionsLoad(mesh, expected)
        load = asyncio.create_task(corrections.run_until(stop))
        await corrections.more(10)
        await kill_at(mesh, "ingest", "ingest.correct.before_commit")
        await corrections.more(10)
        stop.set()
        await load
        assert not await is_exact(mesh, expected)
