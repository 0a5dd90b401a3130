"""Fault 21: the broker's stream is full and refuses new messages."""

from __future__ import annotations

import asyncio
import json
import sys

import nats
import psycopg
import pytest
from meterline.bus.subjects import EVENTS_ACCEPTED
from meterline_dev.mesh import Mesh

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.figures import MIB, peak_of, report_figures
from tests.fault.load import Expected, Reporter, is_exact
from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


async def limit_stream(mesh: Mesh, more: int | None) -> None:
    """Limits the stream to `more` further messages; None: no limit."""
    client = await nats.connect(mesh.nats.url)
    try:
        info = await client.jetstream().stream_info(EVENTS_ACCEPTED.stream)
        info.config.max_msgs = -1 if more is None else info.state.messages + more
        await client.jetstream().update_stream(info.config)
    finally:
        await client.close()


def pending(mesh: Mesh) -> int:
    with psycopg.connect(mesh.admin_dsn()) as connection:
        row = connection.execute("SELECT count(*) FROM ingest.outbox WHERE published_at IS NULL").fetchone()
    return int(row[0]) if row else 0


def pauses(mesh: Mesh) -> list[float]:
    """Seconds that the relay paused after each refusal, in order."""
    lines = mesh.supervisor.log_tail("ingest", 1_000).splitlines()
    failures = [json.loads(line) for line in lines if "loop.failed" in line]
    return [failure["retry_in"] for failure in failures if failure["loop"] == "outbox-relay"]


async def fill_and_drain(mesh: Mesh, expected: Expected, lengths: Lengths, *, piles_up: bool) -> bool:
    """Whether usage is exact after the stream was full. Prints the figures."""
    reporters = [Reporter(mesh, expected, batch=10, seed=at) for at in range(4)]
    stop = asyncio.Event()
    load = [asyncio.create_task(reporter.run_until(stop)) for reporter in reporters]
    await reporters[0].more(50)
    await limit_stream(mesh, 3)
    with peak_of(mesh.supervisor.pid("ingest")) as peak:
        # Capture continues unaffected.
        await asyncio.gather(*(reporter.more(lengths.events // 4) for reporter in reporters))
        if piles_up:
            await eventually(lambda: pauses(mesh), seconds=60, until=lambda found: max(found or [0]) == 2.0)
    waiting = pending(mesh)
    stop.set()
    await asyncio.gather(*load)
    report_figures(f"{waiting} messages waited, ingest took {peak}, pauses {pauses(mesh)}")
    assert (waiting > 10) is piles_up
    assert peak.grown < 50 * MIB
    await limit_stream(mesh, None)
    return await is_exact(mesh, expected)


@pytest.mark.req("T2.4", "T7.3", "X7")
async def test_messages_wait_while_the_stream_is_full_and_none_is_lost(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    expected = Expected()
    async with start_mesh() as mesh:
        assert await fill_and_drain(mesh, expected, lengths, piles_up=True)
        waits = pauses(mesh)
        # The relay retries with growing pauses, and not once for every message.
        assert sorted(set(waits)) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_relay_that_ignores_refusals_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    program = [sys.executable, "-m", "tests.fault.planted.refusal_as_answer"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        assert not await fill_and_drain(mesh, expected, Lengths(400, 1), piles_up=False)
