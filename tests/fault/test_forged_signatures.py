"""Fault 17: forged signatures. None of thousands of changed calls is accepted."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable

import grpc
import pytest
from grpc import aio
from meterline_dev.mesh import Mesh
from meterline_protos.ingest.v1 import capture_pb2_grpc

from tests.fault.conftest import SHARED, Lengths, MakeMesh
from tests.fault.forgeries import Call, Forger
from tests.fault.load import accepted, prepare
from tests.support.credentials import Operator, SignedClient, refusal

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600), pytest.mark.req("T1.4", "X7")]

TAKEN = "TAKEN"
VICTIM, OTHER = "signing", "forging"
# Reasons for refusals before the signed content is used.
BEFORE_THE_SIGNATURE = {
    "CONFIG_INVALID",
    "CONFIG_EXPIRED",
    "KEY_UNKNOWN",
    "TIMESTAMP_OUT_OF_WINDOW",
    "ID_INVALID",
    "SIGNATURE_INVALID",
}


async def prepared(mesh: Mesh, identity: aio.Channel, ingest: aio.Channel) -> tuple[Operator, Forger]:
    """A client of a tenant, and a forger with clients of the same tenant and of another one."""
    await prepare(mesh, (VICTIM, OTHER))
    operator = Operator(identity, ingest, mesh.address("ingest"))
    await operator.rotate(VICTIM)
    await operator.rotate(OTHER)
    victim = await operator.client(VICTIM, actor="ann")
    others: list[SignedClient] = [
        await operator.client(VICTIM, actor="eve"),
        await operator.client(OTHER, actor="ann"),
        await operator.client(OTHER),
    ]
    return operator, Forger(victim, others, seed=17)


async def outcomes(mesh: Mesh, calls: Iterable[Call]) -> Counter[str]:
    """Counts by result of the calls: the reason of the refusal, or TAKEN. No call has a token."""
    found: Counter[str] = Counter()
    waiting = iter(calls)

    async def send(stub: capture_pb2_grpc.CaptureServiceAsyncStub) -> None:
        for call in waiting:
            try:
                await stub.ReportSigned(call, timeout=30)
                found[TAKEN] += 1
            except aio.AioRpcError as error:
                code, reason = refusal(error)
                expected = code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT)
                found[reason if expected else code.name] += 1

    async with aio.insecure_channel(mesh.address("ingest")) as channel:
        stub = capture_pb2_grpc.CaptureServiceStub(channel)
        await asyncio.gather(*(send(stub) for _ in range(16)))
    return found


@SHARED
async def test_no_forged_call_is_accepted(shared_mesh: Mesh, lengths: Lengths) -> None:
    count, mesh = 2_500 if lengths.rounds <= 3 else 30_000, shared_mesh
    async with mesh.channel("identity") as identity, mesh.channel("ingest") as ingest:
        _, forger = await prepared(mesh, identity, ingest)
        assert await outcomes(mesh, [forger.valid()]) == {TAKEN: 1}
        found = await outcomes(mesh, forger.forgeries(count))
        assert found.total() == count
        assert set(found) <= BEFORE_THE_SIGNATURE
        assert found["SIGNATURE_INVALID"] > count / 2
        # The service has accepted exactly the valid calls, before and after.
        assert await outcomes(mesh, [forger.valid()]) == {TAKEN: 1}
        stored = await accepted(mesh)
        assert (stored[VICTIM], stored.get(OTHER, 0)) == (2, 0)


@pytest.mark.planted
async def test_partial_comparison_of_signatures_is_caught(start_mesh: MakeMesh) -> None:
    programs = {"ingest": [sys.executable, "-m", "tests.fault.planted.prefix_of_signatures"]}
    async with (
        start_mesh(programs=programs) as mesh,
        mesh.channel("identity") as identity,
        mesh.channel("ingest") as ingest,
    ):
        _, forger = await prepared(mesh, identity, ingest)
        found = await outcomes(mesh, forger.forgeries(500))
        assert found[TAKEN] > 0


@pytest.mark.planted
async def test_signature_without_the_time_is_caught(start_mesh: MakeMesh) -> None:
    programs = {"ingest": [sys.executable, "-m", "tests.fault.planted.timeless_signatures"]}
    async with (
        start_mesh(programs=programs) as mesh,
        mesh.channel("identity") as identity,
        mesh.channel("ingest") as ingest,
    ):
        _, forger = await prepared(mesh, identity, ingest)
        overheard = timeless(forger.valid(), forger)
        assert await outcomes(mesh, [overheard]) == {TAKEN: 1}
        overheard.timestamp_ms += 200_000
        assert await outcomes(mesh, [overheard]) == {TAKEN: 1}


def timeless(call: Call, forger: Forger) -> Call:
    """The call signed by a client with the same bug."""
    call.signature = forger.sign(call.id, 0, call.body)
    return call
