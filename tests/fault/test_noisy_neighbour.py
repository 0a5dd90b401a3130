"""Fault 24: one tenant floods, far beyond its limit or its share, while twenty others send."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from grpc import aio
from meterline.ids import new_id_bytes
from meterline_dev.mesh import Mesh
from meterline_ingest.rate_limits.rules.limits import Limits
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc, limits_pb2, limits_pb2_grpc

from tests.fault.conftest import LONG, Lengths, MakeMesh
from tests.fault.figures import report_figures
from tests.fault.load import Expected, assert_exact, prepare
from tests.support.capture import Sample, columns
from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

FLOOD = "flood"
OTHERS = tuple(f"quiet-{at}" for at in range(20))
CALL = 1_000
# The burst is most of the allowed events of a test, so that its duration has little influence.
LIMITS = Limits(500, 40_000) if LONG else Limits(200, 16_000)
REPLICAS = ("ingest", "ingest-2")
# Calls a second at fifty times the limit.
FLOOD_CALLS = 50 * LIMITS.events_per_second // CALL
# An eighth of the queue stays free for new tenants during a flood, which suffices for calls of this size.
FAIR_SIZE = 100
SMALL_QUEUE = {"ingest": {"METERLINE_MAX_QUEUED_EVENTS": "20000"}}


@dataclass
class Crowd:
    """Calls of all tenants to one mesh, with a number of events in those of the others, and their results."""

    mesh: Mesh
    replicas: tuple[str, ...] = ("ingest",)
    size: int = 10
    expected: Expected = field(default_factory=lambda: Expected({FLOOD: {}, **{name: {} for name in OTHERS}}))
    codes: dict[str, Counter[str]] = field(default_factory=lambda: {"flood": Counter(), "others": Counter()})
    admitted: int = 0

    def channel(self, replica: str) -> aio.Channel:
        options = [("grpc.use_local_subchannel_pool", 1)]
        return self.mesh.channel(replica, options)

    async def flood(self, replica: str, stop: asyncio.Event, every: float) -> None:
        """Calls of a client that ignores retry delays: one in `every` seconds, or, for 0, without pauses."""
        request = columns(*[Sample(quantities={"units": "1"}) for _ in range(CALL)], tenant_id=FLOOD)
        async with self.channel(replica) as channel:
            stub = capture_pb2_grpc.CaptureServiceStub(channel)
            due = time.monotonic()
            while not stop.is_set():
                # New events for each call, generated cheaply, since generating load slows down the mesh too.
                ids = [new_id_bytes() for _ in range(CALL)]
                request.columns.event_ids = b"".join(ids)
                while not await self.paced_call(stub, request, due := due + every):
                    if stop.is_set():
                        return
                self.expected.units[FLOOD].update({each.hex(): 1 for each in ids})
                self.admitted += CALL

    async def paced_call(
        self,
        stub: capture_pb2_grpc.CaptureServiceAsyncStub,
        request: capture_pb2.ReportRequest,
        due: float,
    ) -> bool:
        await eventually(lambda: time.monotonic() >= due)
        return await self.call(stub, request, "flood")

    async def other(self, tenant: str, calls: int) -> list[float]:
        """Sequential small calls, each repeated until accepted; the total seconds of each."""
        seconds = []
        async with self.channel(self.replicas[len(tenant) % len(self.replicas)]) as channel:
            stub = capture_pb2_grpc.CaptureServiceStub(channel)
            for _ in range(calls):
                samples = [Sample(quantities={"units": "2"}) for _ in range(self.size)]
                self.expected.add(tenant, samples)
                started = time.monotonic()
                while not await self.call(stub, columns(*samples, tenant_id=tenant), "others"):
                    pass
                seconds.append(time.monotonic() - started)
        return seconds

    async def call(
        self,
        stub: capture_pb2_grpc.CaptureServiceAsyncStub,
        request: capture_pb2.ReportRequest,
        who: str,
    ) -> bool:
        try:
            answer = await stub.Report(request, timeout=30, wait_for_ready=True)
        except aio.AioRpcError as error:
            self.codes[who][error.code().name] += 1
            return False
        self.codes[who]["OK"] += 1
        assert not answer.outcomes or answer.duplicate == len(answer.outcomes)
        return True

    async def quiet_p99(self, calls: int) -> float:
        taken = await asyncio.gather(*(self.other(tenant, calls) for tenant in OTHERS))
        ordered = sorted(each for seconds in taken for each in seconds)
        return ordered[int(len(ordered) * 0.99)]


async def put_limits(mesh: Mesh, limits: Limits) -> None:
    request = limits_pb2.PutTenantLimitsRequest(
        tenant_id=FLOOD,
        limits=limits_pb2.Limits(events_per_second=limits.events_per_second, burst=limits.burst),
    )
    async with mesh.channel("ingest") as channel:
        await limits_pb2_grpc.LimitsServiceStub(channel).PutTenantLimits(request, timeout=10)


async def during_a_flood(crowd: Crowd, calls: int, *, lanes: int, a_second: float = 0.0) -> None:
    """Sends others' calls without and then during a flood. Prints the 99th percentiles of their times.

    a_second: calls of the flood, on all lanes of all replicas together; 0: as fast as they are answered
    """
    alone = await crowd.quiet_p99(calls)
    before = crowd.codes["flood"].total()
    stop, started = asyncio.Event(), time.monotonic()
    every = lanes * len(crowd.replicas) / a_second if a_second else 0.0
    load = [
        asyncio.create_task(crowd.flood(replica, stop, every))
        for replica in crowd.replicas
        for _ in range(lanes)
    ]
    flooded = await crowd.quiet_p99(calls)
    stop.set()
    await asyncio.gather(*load)
    offered = CALL * (crowd.codes["flood"].total() - before) / (time.monotonic() - started)
    report_figures(
        f"flood of {offered:,.0f} events a second: {dict(crowd.codes['flood'])}, others"
        f" {dict(crowd.codes['others'])}, their p99 {1000 * alone:.0f} ms alone and {1000 * flooded:.0f} ms"
        f" during it, x{flooded / alone:.2f}, with all load from one process"
    )


async def known_everywhere(crowd: Crowd) -> None:
    """Waits until every replica knows every tenant."""
    for replica in crowd.replicas:
        async with crowd.channel(replica) as channel:
            stub = capture_pb2_grpc.CaptureServiceStub(channel)
            for tenant in (FLOOD, *OTHERS):
                sample = Sample(quantities={"units": "3"})
                crowd.expected.add(tenant, [sample])
                await stub.Report(columns(sample, tenant_id=tenant), timeout=30, wait_for_ready=True)


def bound(seconds: float) -> float:
    """The most events that all replicas may admit in `seconds`."""
    return LIMITS.burst + LIMITS.events_per_second * seconds + len(REPLICAS) * LIMITS.block + CALL - 1


async def flooded_replicas(mesh: Mesh, calls: int, enough: Callable[[Crowd], bool]) -> tuple[Crowd, float]:
    """The crowd after a flood of two replicas, and the seconds of the flood."""
    await prepare(mesh, (FLOOD, *OTHERS))
    # Before the second replica starts, which would otherwise work without limits for up to two seconds.
    await put_limits(mesh, LIMITS)
    await mesh.start_replica("ingest", REPLICAS[1])
    crowd, started = Crowd(mesh, REPLICAS), time.monotonic()
    await known_everywhere(crowd)
    while not enough(crowd):
        await during_a_flood(crowd, calls, lanes=4, a_second=FLOOD_CALLS)
    return crowd, time.monotonic() - started


@pytest.mark.req("T4.2", "T2.4", "X7")
async def test_flood_is_limited_across_replicas_without_effect_on_others(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    async with start_mesh() as mesh:
        crowd, seconds = await flooded_replicas(
            mesh, lengths.events // 150, lambda crowd: crowd.codes["flood"]["RESOURCE_EXHAUSTED"] > 0
        )
        assert crowd.admitted <= bound(seconds)
        assert set(crowd.codes["others"]) == {"OK"}
        await assert_exact(mesh, crowd.expected)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_limits_counted_by_replica_are_caught(start_mesh: MakeMesh) -> None:
    program = [sys.executable, "-m", "tests.fault.planted.limits_by_replica"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        crowd, seconds = await flooded_replicas(mesh, 5, lambda crowd: crowd.admitted >= 2 * LIMITS.burst)
        assert crowd.admitted > bound(seconds)


async def flooded_queue(mesh: Mesh, calls: int) -> Crowd:
    """The crowd after a flood that only the queue limits."""
    await prepare(mesh, (FLOOD, *OTHERS))
    crowd = Crowd(mesh, size=FAIR_SIZE)
    await known_everywhere(crowd)
    await during_a_flood(crowd, calls, lanes=40)
    assert crowd.codes["flood"]["RESOURCE_EXHAUSTED"] > 0
    return crowd


@pytest.mark.req("T4.2", "T2.4", "X7")
async def test_flood_without_a_limit_leaves_queue_room_for_others(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    async with start_mesh(environment=SMALL_QUEUE) as mesh:
        crowd = await flooded_queue(mesh, lengths.events // 150)
        assert set(crowd.codes["others"]) == {"OK"}
        await assert_exact(mesh, crowd.expected)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_queue_without_shares_is_caught(start_mesh: MakeMesh) -> None:
    program = [sys.executable, "-m", "tests.fault.planted.first_come_queue"]
    async with start_mesh(environment=SMALL_QUEUE, programs={"ingest": program}) as mesh:
        crowd = await flooded_queue(mesh, 10)
        assert crowd.codes["others"]["RESOURCE_EXHAUSTED"] > 0
