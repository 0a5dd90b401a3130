"""Fault 1, for timers: kills between the stop and its event, or between the event and its record."""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal
from typing import Any

import pytest
from grpc import aio
from meterline_dev.mesh import Mesh
from meterline_protos.aggregate.v1 import meters_pb2, meters_pb2_grpc
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import event_types_pb2, event_types_pb2_grpc, timers_pb2, timers_pb2_grpc

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import accepted, wait_until_settled
from tests.fault.test_crashes import kill_at
from tests.support.usage import month_total

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]

POINTS = ("timers.stop.before_capture", "timers.stop.after_capture")


async def prepare(mesh: Mesh) -> None:
    """Creates an event type with timers, and a meter of their seconds."""
    async with mesh.channel("ingest") as ingest:
        definition = event_types_pb2.EventType(
            name="call",
            quantities=[event_types_pb2.QuantityDefinition(name="seconds", scale=6)],
            timer=event_types_pb2.TimerPolicy(
                quantity="seconds",
                abandoned_after_seconds=3_600,
                when_abandoned=event_types_pb2.ABANDONED_TIMER_DISCARD,
            ),
        )
        await event_types_pb2_grpc.EventTypesServiceStub(ingest).PutEventType(
            event_types_pb2.PutEventTypeRequest(event_type=definition)
        )
    async with mesh.channel("aggregate") as aggregate:
        meter = meters_pb2.Meter(
            name="seconds",
            event_type="call",
            aggregation=types_pb2.AGGREGATION_SUM,
            quantity="seconds",
        )
        await meters_pb2_grpc.MetersServiceStub(aggregate).CreateMeter(
            meters_pb2.CreateMeterRequest(meter=meter)
        )


async def start_and_stop(mesh: Mesh, name: str) -> Decimal:
    """Starts and stops one timer, with unlimited retries; returns its seconds."""
    quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    start = timers_pb2.StartTimerRequest(tenant_id="acme", timer_id=name, source="test", type="call")
    stop = timers_pb2.StopTimerRequest(tenant_id="acme", timer_id=name)
    async with mesh.channel("ingest", quick) as channel:
        stub = timers_pb2_grpc.TimersServiceStub(channel)
        steps: list[tuple[Any, Any]] = [(stub.StartTimer, start), (stub.StopTimer, stop)]
        for call, request in steps:
            while True:
                try:
                    answer = await call(request, timeout=5, wait_for_ready=True)
                except aio.AioRpcError:
                    continue
                if answer.timer.state != timers_pb2.TIMER_STATE_STOPPING:
                    break
    return Decimal(answer.timer.seconds)


async def run(mesh: Mesh, points: tuple[str, ...], timers: int) -> tuple[int, Decimal]:
    """Stops `timers` timers while ingest is killed at each of `points`; returns the expected usage."""
    await prepare(mesh)
    total = Decimal(0)
    for turn, point in enumerate(points):
        killing = asyncio.create_task(kill_at(mesh, "ingest", point))
        rounds = await asyncio.gather(*(start_and_stop(mesh, f"{turn}-{n}") for n in range(timers)))
        total += sum(rounds)
        await killing
    await wait_until_settled(mesh)
    return timers * len(points), total


async def found(mesh: Mesh) -> tuple[int, Decimal]:
    events = await accepted(mesh)
    async with mesh.channel("aggregate") as channel:
        return events.get("acme", 0), await month_total(channel, "acme", "seconds")


@pytest.mark.req("T6.3", "T7.3", "X7")
async def test_every_stopped_timer_counts_once(start_mesh: MakeMesh, lengths: Lengths) -> None:
    async with start_mesh() as mesh:
        expected = await run(mesh, POINTS, 10 if lengths.rounds <= 3 else 200)
        assert await found(mesh) == expected


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_timers_with_random_event_ids_are_caught(start_mesh: MakeMesh) -> None:
    program = [sys.executable, "-m", "tests.fault.planted.random_timer_events"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        expected = await run(mesh, POINTS[1:], 10)
        assert await found(mesh) != expected
