"""Fault 16: rejected events are replayed under load while the service is killed, and each counts once."""

from __future__ import annotations

import asyncio
import random
import sys

import pytest
from grpc import aio
from meterline_dev.mesh import Mesh
from meterline_protos.ingest.v1 import (
    capture_pb2_grpc,
    event_types_pb2,
    event_types_pb2_grpc,
    quarantine_pb2,
)

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import CALL_SECONDS, TENANTS, Expected, Reporter, assert_exact, is_exact
from tests.support.capture import Sample, rows
from tests.support.quarantine import QuarantineApi

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

KILLS = (
    "ingest.quarantine.before_settle",
    "ingest.quarantine.after_settle",
    "ingest.report.after_commit",
    "ingest.report.before_commit",
)
# Entries of one replay: few, so that some remain for every kill.
REPLAY = 20


def channel(mesh: Mesh) -> aio.Channel:
    quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    return mesh.channel("ingest", quick)


async def quarantine_events(mesh: Mesh, expected: Expected, events: int) -> None:
    """Reports events with a dimension that their type lacks."""
    chance = random.Random(3)
    async with channel(mesh) as to_ingest:
        capture = capture_pb2_grpc.CaptureServiceStub(to_ingest)
        for at in range(0, events, 50):
            tenant = TENANTS[at // 50 % len(TENANTS)]
            samples = [
                Sample(quantities={"units": str(chance.randrange(1_000))}, dimensions={"zone": f"z{at % 7}"})
                for _ in range(50)
            ]
            answer = await capture.Report(rows(*samples, tenant_id=tenant), timeout=CALL_SECONDS)
            assert [outcome.quarantined for outcome in answer.outcomes] == [True] * 50
            expected.add(tenant, samples)


async def fix(mesh: Mesh) -> None:
    definition = event_types_pb2.EventType(
        name="api.request",
        quantities=[event_types_pb2.QuantityDefinition(name="units", scale=0)],
        dimensions=[event_types_pb2.DimensionDefinition(name=name) for name in ("region", "zone")],
    )
    async with channel(mesh) as to_ingest:
        await event_types_pb2_grpc.EventTypesServiceStub(to_ingest).PutEventType(
            event_types_pb2.PutEventTypeRequest(event_type=definition)
        )


async def replay_all(mesh: Mesh) -> None:
    """Replays until no entry is left, despite failed calls. Two concurrent calls replay the same entries."""
    async with channel(mesh) as to_ingest:
        for tenant in TENANTS:
            api = QuarantineApi(to_ingest, tenant)
            while await _waits(api):
                # During a restart each call would fail immediately.
                await to_ingest.channel_ready()
                await asyncio.gather(_replay_some(api), _replay_some(api))


async def _waits(api: QuarantineApi) -> bool:
    try:
        return (await api.page(page_size=1)).waiting > 0
    except aio.AioRpcError:
        return True


async def _replay_some(api: QuarantineApi) -> None:
    try:
        page = await api.page(page_size=REPLAY)
        ids = [entry.quarantine_id for entry in page.entries]
        if ids:
            await api.replay(ids=quarantine_pb2.QuarantineIds(quarantine_ids=ids))
    except aio.AioRpcError:
        pass  # killed during the call: the next one continues


async def kill_during_replays(mesh: Mesh, point: str, passes: int) -> None:
    """Restarts ingest so that it dies at `point`, waits for its death, and starts it again."""
    await mesh.supervisor.stop("ingest")
    await mesh.start_service("ingest", METERLINE_CRASH_AT=f"{point}:{passes}")
    async with asyncio.timeout(60):
        assert await mesh.supervisor.exited("ingest") == -9
    await mesh.start_service("ingest")


@pytest.mark.req("O2", "T7.3", "T7.4", "X7")
async def test_every_quarantined_event_counts_once(start_mesh: MakeMesh, lengths: Lengths) -> None:
    expected = Expected()
    async with start_mesh(environment={"aggregate": {"METERLINE_EMIT_SECONDS": "0.2"}}) as mesh:
        await quarantine_events(mesh, expected, lengths.events)
        await fix(mesh)
        reporter, stop = Reporter(mesh, expected), asyncio.Event()
        load = asyncio.create_task(reporter.run_until(stop))
        await reporter.more(100)
        replays = asyncio.create_task(replay_all(mesh))
        for point in KILLS * (2 if lengths.rounds > 3 else 1):
            await kill_during_replays(mesh, point, 3)
        assert not replays.done(), "no kill happened during a replay"
        await replays
        await reporter.more(100)
        stop.set()
        await load
        await assert_exact(mesh, expected)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_replay_that_renames_events_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    program = [sys.executable, "-m", "tests.fault.planted.renaming_replay"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        await quarantine_events(mesh, expected, 300)
        await fix(mesh)
        replays = asyncio.create_task(replay_all(mesh))
        await kill_during_replays(mesh, "ingest.quarantine.before_settle", 1)
        await replays
        assert not await is_exact(mesh, expected)
