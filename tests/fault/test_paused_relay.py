"""Fault 12: a relay is paused while it publishes, another takes over, and the first resumes."""

from __future__ import annotations

import signal
import sys
from functools import partial
from typing import Final

import psycopg
import pytest
from meterline_dev.mesh import Mesh

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import Expected, Reporter, is_exact, wait_until_settled
from tests.fault.test_redelivery import grown_to, messages_on_stream
from tests.support.polling import eventually
from tests.support.proxy import Proxy

SECOND: Final = "ingest-second"

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


def pending(mesh: Mesh) -> int:
    with psycopg.connect(mesh.admin_dsn()) as admin:
        row = admin.execute("SELECT count(*) FROM ingest.outbox WHERE published_at IS NULL").fetchone()
    return int(row[0]) if row else 0


def end_sessions_of_ingest(mesh: Mesh) -> None:
    """Ends the sessions, as a database does with unresponsive clients."""
    with psycopg.connect(mesh.admin_dsn(), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'meterline-ingest'"
        )


async def pause_and_take_over(mesh: Mesh, expected: Expected, rounds: int) -> bool:
    """Whether every event counted once."""
    async with Proxy(mesh.nats.port) as proxy:
        await mesh.supervisor.stop("ingest")
        await mesh.start_service("ingest", METERLINE_NATS_URL=mesh.nats_url("ingest", proxy.port))
        reporter = Reporter(mesh, expected, batch=10)
        stored = 0
        for _ in range(rounds):
            proxy.swallow()
            await reporter.run(50)
            # The broker has stored some messages, and the paused relay still holds its claim.
            await eventually(partial(grown_to, mesh, stored + 1), seconds=30)
            assert pending(mesh) > 0
            mesh.supervisor.send_signal("ingest", signal.SIGSTOP)
            end_sessions_of_ingest(mesh)
            await mesh.start_replica("ingest", SECOND)
            await eventually(lambda: pending(mesh) == 0, seconds=30)
            await mesh.supervisor.stop(SECOND)
            proxy.forward()
            mesh.supervisor.send_signal("ingest", signal.SIGCONT)
            await reporter.run(50)
            await wait_until_settled(mesh)
            stored = await messages_on_stream(mesh)
        return await is_exact(mesh, expected)


@pytest.mark.req("K3", "T7.3", "X7")
async def test_resumed_relay_changes_nothing(start_mesh: MakeMesh, lengths: Lengths) -> None:
    async with start_mesh() as mesh:
        assert await pause_and_take_over(mesh, Expected(), 1 if lengths.rounds <= 3 else 5)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_relays_that_generate_message_ids_are_caught(start_mesh: MakeMesh) -> None:
    programs = {"ingest": [sys.executable, "-m", "tests.fault.planted.fresh_message_ids"]}
    async with start_mesh(programs=programs) as mesh:
        assert not await pause_and_take_over(mesh, Expected(), 1)
