"""A stolen key: of a service it is good for that service alone, and of the operator until it is made anew."""

from __future__ import annotations

import sys
from typing import Any

import grpc
import pytest
from grpc import aio
from meterline.auth.grants import SERVICES
from meterline.auth.principals import Permission
from meterline.auth.tokens import ServiceSigner
from meterline.clock import SystemClock
from meterline_dev import channels
from meterline_dev.keys import OPERATOR, Keys
from meterline_dev.mesh import Mesh
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc
from meterline_protos.ingest.v1 import capture_pb2_grpc, events_pb2, events_pb2_grpc

from tests.fault.conftest import SHARED, MakeMesh
from tests.support.capture import Sample, rows
from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600), pytest.mark.req("T4.1")]

Code = grpc.StatusCode


async def told(call: Any) -> Code:
    try:
        await call
    except aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def onboarding(mesh: Mesh, token: str) -> Code:
    """What identity says to a call that only operators may make, with a request that is refused later."""
    async with channels.channel(mesh.address("identity"), lambda: token) as channel:
        stub: Any = tenants_pb2_grpc.TenantsServiceStub(channel)
        return await told(stub.OnboardTenant(tenants_pb2.OnboardTenantRequest(), timeout=30))


async def taken_from_thieves(mesh: Mesh) -> list[tuple[str, str]]:
    """(whose key, in whose name) the tokens were that identity took for an operator's."""
    found = []
    for owner in SERVICES:
        for name in (*SERVICES, OPERATOR):
            forged = ServiceSigner(name, mesh.keys.private(owner), set(Permission), SystemClock())
            if await onboarding(mesh, forged.token()) is Code.INVALID_ARGUMENT:
                found.append((owner, name))
    return found


@SHARED
async def test_the_key_of_a_service_passes_for_nobody_else(shared_mesh: Mesh) -> None:
    assert await onboarding(shared_mesh, shared_mesh.token()) is Code.INVALID_ARGUMENT
    assert await taken_from_thieves(shared_mesh) == []


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_a_service_that_believes_what_tokens_say_is_caught(start_mesh: MakeMesh) -> None:
    program = [sys.executable, "-m", "tests.fault.planted.ownerless_keys"]
    async with start_mesh(programs={"identity": program}) as mesh:
        assert len(await taken_from_thieves(mesh)) == len(SERVICES) * (len(SERVICES) + 1)


async def test_an_old_key_of_the_operator_stops_everywhere_and_the_mesh_goes_on(start_mesh: MakeMesh) -> None:
    async with start_mesh() as mesh:
        old = mesh.token()

        async with channels.channel(mesh.address("ingest"), lambda: old) as channel:
            stream: Any = capture_pb2_grpc.CaptureServiceStub(channel).Stream()
            await stream.write(rows(Sample()))
            assert (await stream.read()).acknowledged == 1
            Keys(mesh.directory).renew_operator()

            async def refused_on_the_stream() -> Code:
                await stream.write(rows(Sample()))
                return await told(stream.read())

            last = await eventually(refused_on_the_stream, until=lambda code: code is not Code.OK)
            assert last is Code.UNAUTHENTICATED
            stub: Any = events_pb2_grpc.EventsServiceStub(channel)
            assert await told(stub.GetTotals(events_pb2.GetTotalsRequest())) is Code.UNAUTHENTICATED
        await eventually(lambda: onboarding(mesh, old), until=lambda code: code is Code.UNAUTHENTICATED)
        # Where the old token is refused the new one is taken, and services go on as before.
        assert await onboarding(mesh, mesh.token()) is Code.INVALID_ARGUMENT
        async with mesh.channel("ingest") as channel:
            capture: Any = capture_pb2_grpc.CaptureServiceStub(channel)
            assert await told(capture.Report(rows(Sample(), tenant_id="acme"))) is Code.OK
