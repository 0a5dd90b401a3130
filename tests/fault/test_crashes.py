"""Fault 1: SIGKILL at every named crash point of every service, under load."""

from __future__ import annotations

import asyncio
import sys

import pytest
from meterline import crashpoints
from meterline_dev.mesh import Mesh

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import Expected, Reporter, assert_exact, is_exact

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

RELAY = [point for point in crashpoints.ALL if point.startswith("outbox.relay.")]
CONSUMER = [point for point in crashpoints.ALL if point.startswith("bus.consumer.")]
UNIT_OF_WORK = [point for point in crashpoints.ALL if point.startswith("unit_of_work.")]
REPORT = [point for point in crashpoints.ALL if point.startswith("ingest.report.")]

# The crash points on the path of events. Points of onboarding and of the publisher's sending are covered by
# their own tests: tests/integration/identity/test_identity_process.py and
# tests/integration/publisher/test_recovery.py.
UNDER_LOAD = [
    *(("ingest", point) for point in [*REPORT, *UNIT_OF_WORK, *RELAY]),
    *(("aggregate", point) for point in [*CONSUMER, *UNIT_OF_WORK, *RELAY]),
]
SHORT = [
    ("ingest", "ingest.report.after_commit"),
    ("ingest", "outbox.relay.after_publish"),
    ("aggregate", "bus.consumer.before_ack"),
]


async def kill_at(mesh: Mesh, service: str, point: str) -> None:
    """Restarts the service so that it dies at `point`, waits for its death, and starts it again."""
    await mesh.supervisor.stop(service)
    await mesh.start_service(service, METERLINE_CRASH_AT=f"{point}:3")
    async with asyncio.timeout(60):
        assert await mesh.supervisor.exited(service) == -9
    await mesh.start_service(service)


@pytest.mark.req("K3", "T3.1", "T3.2", "T7.3", "O9", "X7")
async def test_kills_under_load_lose_and_duplicate_no_events(start_mesh: MakeMesh, lengths: Lengths) -> None:
    expected = Expected()
    async with start_mesh(environment={"aggregate": {"METERLINE_EMIT_SECONDS": "0.2"}}) as mesh:
        reporter, stop = Reporter(mesh, expected), asyncio.Event()
        load = asyncio.create_task(reporter.run_until(stop))
        for service, point in UNDER_LOAD if lengths.rounds > 3 else SHORT:
            await reporter.more(100)
            await kill_at(mesh, service, point)
        while reporter.acknowledged < lengths.events:
            await reporter.more(100)
        stop.set()
        await load
        await assert_exact(mesh, expected)
        assert expected.events >= lengths.events


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_ack_before_the_commit_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    program = [sys.executable, "-m", "tests.fault.planted.ack_before_commit"]
    async with start_mesh(programs={"aggregate": program}) as mesh:
        reporter, stop = Reporter(mesh, expected), asyncio.Event()
        load = asyncio.create_task(reporter.run_until(stop))
        await reporter.more(100)
        await kill_at(mesh, "aggregate", "unit_of_work.before_commit")
        await reporter.more(100)
        stop.set()
        await load
        assert not await is_exact(mesh, expected)
