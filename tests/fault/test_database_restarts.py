"""Fault 14: Postgres restarts, or ends all sessions, repeatedly under load."""

from __future__ import annotations

import asyncio
import sys

import psycopg
import pytest
from meterline_dev.mesh import DATABASE, Mesh

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import Expected, Reporter, assert_exact, is_exact

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

LANES = 4
# Events accepted between two strikes, which takes a second or two.
BETWEEN = 200


def end_all_sessions(mesh: Mesh) -> int:
    """Ends all sessions like a failover; returns their number."""
    with psycopg.connect(mesh.admin_dsn(), autocommit=True) as admin:
        cursor = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s",
            (DATABASE, admin.info.backend_pid),
        )
        return len(cursor.fetchall())


async def strike_under_load(mesh: Mesh, expected: Expected, blows: int) -> None:
    """Alternately restarts the server and ends all sessions, each time after capture has recovered."""
    reporters = [Reporter(mesh, expected, seed=at) for at in range(LANES)]
    stop = asyncio.Event()
    load = [asyncio.create_task(reporter.run_until(stop)) for reporter in reporters]
    for blow in range(blows):
        await asyncio.gather(*(reporter.more(BETWEEN // LANES) for reporter in reporters))
        if blow % 2:
            await asyncio.to_thread(mesh.postgres.restart)
        else:
            assert await asyncio.to_thread(end_all_sessions, mesh) > 0
    await asyncio.gather(*(reporter.more(BETWEEN // LANES) for reporter in reporters))
    stop.set()
    await asyncio.gather(*load)


@pytest.mark.req("T7.3", "K3", "X7")
async def test_database_restarts_lose_and_duplicate_no_events(start_mesh: MakeMesh, lengths: Lengths) -> None:
    expected = Expected()
    async with start_mesh() as mesh:
        await strike_under_load(mesh, expected, 2 * lengths.rounds)
        await assert_exact(mesh, expected)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_answer_without_a_commit_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    programs = {"ingest": [sys.executable, "-m", "tests.fault.planted.hopeful_capture"]}
    async with start_mesh(programs=programs) as mesh:
        await strike_under_load(mesh, expected, 6)
        assert not await is_exact(mesh, expected)
