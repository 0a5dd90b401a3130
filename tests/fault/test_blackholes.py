"""Fault 20: the broker or the database accepts connections but never answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import pytest
from grpc import aio
from meterline.db.provision import app_role
from meterline_dev.mesh import Mesh
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc
from psycopg.conninfo import make_conninfo

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.figures import MIB, peak_of, report_figures
from tests.fault.load import Expected, Reporter, assert_exact
from tests.support.capture import Sample, rows
from tests.support.polling import eventually
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

DEADLINE = 2.0


def seconds(lengths: Lengths) -> float:
    return 30.0 if lengths.rounds > 3 else 2.0


async def passed(duration: float) -> None:
    until = time.monotonic() + duration
    await eventually(lambda: time.monotonic() >= until, seconds=duration + 5)


async def capture_without_a_broker(mesh: Mesh, expected: Expected, duration: float) -> bool:
    """Whether every call was answered within its deadline while the broker was silent."""
    async with Proxy(mesh.nats.port) as proxy:
        await mesh.supervisor.stop("ingest")
        await mesh.start_service("ingest", METERLINE_NATS_URL=mesh.nats_url("ingest", proxy.port))
        reporters = [Reporter(mesh, expected, batch=20, seed=at) for at in range(4)]
        stop = asyncio.Event()
        load = [asyncio.create_task(reporter.run_until(stop)) for reporter in reporters]
        await reporters[0].more(100)
        with peak_of(mesh.supervisor.pid("ingest")) as peak:
            proxy.blackhole()
            before = expected.events
            await passed(duration)
            with suppress(TimeoutError):
                await asyncio.gather(*(reporter.more(100, seconds=10) for reporter in reporters))
            captured = expected.events - before
            proxy.forward()
        stop.set()
        await asyncio.gather(*load)
        repeated = sum(reporter.repeated for reporter in reporters)
        report_figures(f"{captured} events captured meanwhile, {repeated} calls repeated, ingest took {peak}")
        assert peak.grown < 50 * MIB
        await assert_exact(mesh, expected)
        return repeated == 0 and captured >= 400


@pytest.mark.req("T2.4", "T7.3")
async def test_capture_continues_while_the_broker_is_silent(start_mesh: MakeMesh, lengths: Lengths) -> None:
    async with start_mesh() as mesh:
        assert await capture_without_a_broker(mesh, Expected(), seconds(lengths))


@pytest.mark.planted
@pytest.mark.req("T7.3")
async def test_capture_that_waits_for_the_broker_is_caught(start_mesh: MakeMesh) -> None:
    program = [sys.executable, "-m", "tests.fault.planted.publish_before_answer"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        assert not await capture_without_a_broker(mesh, Expected(), 1.0)


async def outcomes_without_a_database(
    mesh: Mesh, batches: Sequence[list[Sample]], until: float
) -> Counter[str]:
    """Status codes of calls, sequential on each of several channels, that wait until their deadline."""
    codes: Counter[str] = Counter()

    async def one(samples: list[Sample]) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with mesh.channel("ingest", options) as channel:
            stub = capture_pb2_grpc.CaptureServiceStub(channel)
            while time.monotonic() < until:
                codes[await code_of(stub, rows(*samples))] += 1

    await asyncio.gather(*map(one, batches))
    return codes


async def code_of(stub: capture_pb2_grpc.CaptureServiceAsyncStub, request: capture_pb2.ReportRequest) -> str:
    try:
        await stub.Report(request, timeout=DEADLINE)
    except aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def through(proxy: Proxy, mesh: Mesh) -> str:
    """The address of ingest's database through the proxy."""
    return make_conninfo(mesh.dsn(app_role("ingest")), host="127.0.0.1", port=proxy.port)


async def capture_without_a_database(mesh: Mesh, expected: Expected, duration: float) -> Counter[str]:
    """Status codes of heavy load while the database was silent."""
    async with Proxy(mesh.postgres.port) as proxy:
        await mesh.supervisor.stop("ingest")
        await mesh.start_service("ingest", METERLINE_DATABASE_URL=through(proxy, mesh))
        reporter, stop = Reporter(mesh, expected), asyncio.Event()
        load = asyncio.create_task(reporter.run_until(stop))
        await reporter.more(200)
        # Independent heavy callers: 40 concurrent calls of 1,000 events each, repeatedly.
        batches = [[Sample(quantities={"units": "1"}) for _ in range(1_000)] for _ in range(40)]
        with peak_of(mesh.supervisor.pid("ingest")) as peak:
            proxy.blackhole()
            codes = await outcomes_without_a_database(mesh, batches, time.monotonic() + duration)
            proxy.forward()
        # Capture recovers by itself, and retried batches count once.
        await reporter.more(200)
        for samples in batches:
            expected.add("acme", samples)
        await reporter.deliver(rows(*samples) for samples in batches)
        stop.set()
        await load
        report_figures(f"{dict(codes)} meanwhile, ingest took {peak}")
        # At most 100,000 events wait, with their memory in protobuf and the queue.
        assert peak.grown < 200 * MIB
        await assert_exact(mesh, expected)
    return codes


def is_reported_to_callers(codes: Counter[str]) -> bool:
    """Whether some calls failed with a clear status before their deadline, and none succeeded."""
    return not codes["OK"] and codes["UNAVAILABLE"] > 0


@pytest.mark.req("T2.4", "T7.3")
async def test_calls_are_answered_while_the_database_is_silent(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    async with start_mesh() as mesh:
        codes = await capture_without_a_database(mesh, Expected(), seconds(lengths))
    assert is_reported_to_callers(codes)
    assert set(codes) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


@pytest.mark.planted
@pytest.mark.req("T7.3")
async def test_capture_that_waits_forever_for_the_database_is_caught(start_mesh: MakeMesh) -> None:
    program = [sys.executable, "-m", "tests.fault.planted.patient_calls"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        assert not is_reported_to_callers(await capture_without_a_database(mesh, Expected(), 1.0))
