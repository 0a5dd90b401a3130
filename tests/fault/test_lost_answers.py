"""Faults 2 and 3: the answer to the client, or the ack to the relay, is lost after the work was done."""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import replace

import pytest
from grpc import aio
from meterline.ids import new_id
from meterline_dev.channels import channel as channel_to
from meterline_dev.mesh import Mesh
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import Expected, Reporter, assert_exact, is_exact
from tests.support.capture import Sample, rows
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

# Minimal bytes of an answer with its headers. Control frames of a connection have up to 17.
SHORTEST_ANSWER = 64
RETRIES = 5


async def report_and_lose_answers(mesh: Mesh, batches: list[list[Sample]], *, same_ids: bool) -> None:
    """Reports each batch six times: five answers are dropped after the commit, the sixth arrives."""
    port = int(mesh.address("ingest").rpartition(":")[2])
    async with Proxy(port) as proxy:
        for samples in batches:
            for attempt in range(RETRIES + 1):
                if attempt and not same_ids:
                    samples = [replace(sample, id=str(new_id())) for sample in samples]
                await _attempt(mesh, proxy, rows(*samples), lose=attempt < RETRIES)


async def _attempt(mesh: Mesh, proxy: Proxy, request: capture_pb2.ReportRequest, *, lose: bool) -> None:
    # A separate channel, or the library would share a connection that was cut.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with channel_to(f"127.0.0.1:{proxy.port}", mesh.token, options) as channel:
        await channel.channel_ready()
        call = capture_pb2_grpc.CaptureServiceStub(channel).Report(request, timeout=30)
        if not lose:
            answer = await call
            assert answer.accepted + answer.duplicate == len(request.rows.events)
            return
        # HTTP/2 acknowledges received frames before the service begins the call.
        proxy.swallow(least=SHORTEST_ANSWER)
        sending = asyncio.ensure_future(_outcome(call))
        # The service answers after its commit, so the dropped answer is that of durable work.
        await asyncio.wait_for(proxy.swallowed.wait(), 30)
        await proxy.cut()
        proxy.forward()
        assert await sending in ("UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN")


async def _outcome(call: aio.UnaryUnaryCall[capture_pb2.ReportRequest, capture_pb2.ReportResponse]) -> str:
    try:
        await call
    except aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def make_batches(count: int, size: int) -> list[list[Sample]]:
    return [[Sample(quantities={"units": str(at)}) for at in range(size)] for _ in range(count)]


@pytest.mark.req("T1.1", "T1.2", "X7")
async def test_retries_after_lost_answers_count_once(start_mesh: MakeMesh, lengths: Lengths) -> None:
    expected = Expected()
    batches = make_batches(lengths.rounds, max(100, lengths.events // lengths.rounds))
    async with start_mesh() as mesh:
        await report_and_lose_answers(mesh, batches, same_ids=True)
        for samples in batches:
            expected.add("acme", samples)
        await assert_exact(mesh, expected)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_client_that_renames_events_on_retry_is_caught(start_mesh: MakeMesh) -> None:
    expected = Expected()
    batches = make_batches(1, 100)
    async with start_mesh() as mesh:
        await report_and_lose_answers(mesh, batches, same_ids=False)
        expected.add("acme", batches[0])
        assert not await is_exact(mesh, expected)


class LossyBroker:
    """Drops one in `one_in` of the broker's acks of stored event messages."""

    def __init__(self, one_in: int) -> None:
        self._random = random.Random(11)
        self._one_in = one_in
        self.lost = 0

    def passes(self, answer: bytes) -> bool:
        if b'"stream":"EVENTS"' not in answer or self._random.randrange(self._one_in):
            return True
        self.lost += answer.count(b'"stream":"EVENTS"')
        return False


async def report_through_lossy_broker(
    start_mesh: MakeMesh, batches: int, programs: dict[str, list[str]]
) -> tuple[bool, int]:
    """Whether usage is exact after `batches` batches, and the number of lost acks."""
    expected, broker = Expected(), LossyBroker(8)
    async with start_mesh(programs=programs) as mesh, Proxy(mesh.nats.port, broker.passes) as proxy:
        await mesh.supervisor.stop("ingest")
        await mesh.start_service("ingest", METERLINE_NATS_URL=mesh.nats_url("ingest", proxy.port))
        # Small concurrent batches make many messages, each with an ack that can be lost.
        reporters = [Reporter(mesh, expected, batch=10, seed=at) for at in range(8)]
        await asyncio.gather(*(reporter.run(10 * batches // 8) for reporter in reporters))
        return await is_exact(mesh, expected), broker.lost


@pytest.mark.req("T3.1", "X7")
async def test_messages_with_lost_acks_count_once(start_mesh: MakeMesh, lengths: Lengths) -> None:
    batches = 1_000 if lengths.rounds > 3 else 160
    exact, lost = await report_through_lossy_broker(start_mesh, batches, {})
    assert lost > 0
    assert exact


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_relay_that_renames_messages_is_caught(start_mesh: MakeMesh) -> None:
    programs = {"ingest": [sys.executable, "-m", "tests.fault.planted.fresh_message_ids"]}
    exact, lost = await report_through_lossy_broker(start_mesh, 160, programs)
    assert lost > 0
    assert not exact
