"""Stolen keys: a service's key works only for that service, and the operator's only until it is replaced."""

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


async def code_of(call: Any) -> Code:
    try:
        await call
    except aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def onboarding(mesh: Mesh, token: str) -> Code:
    """Identity's status for a call that only operators may make, with a request that is invalid otherwise."""
    async with channels.channel(mesh.address("identity"), lambda: token) as channel:
        stub: Any = tenants_pb2_grpc.TenantsServiceStub(channel)
        return await code_of(stub.OnboardTenant(tenants_pb2.OnboardTenantRequest(), timeout=30))


async def taken_from_thieves(mesh: Mesh) -> list[tuple[str, str]]:
    """(key owner, claimed name) of the tokens that identity accepted as an operator's."""
    found = []
    for owner in SERVICES:
        for name in (*SERVICES, OPERATOR):
            forged = ServiceSigner(name, mesh.keys.private(owner), set(Permission), SystemClock())
            if await onboarding(mesh, forged.token()) is Code.INVALID_ARGUMENT:
                found.append((owner, name))
    return found


@SHARED
async def test_service_key_works_only_for_its_service(shared_mesh: Mesh) -> None:
    assert await onboarding(shared_mesh, shared_mesh.token()) is Code.INVALID_ARGUMENT
    assert await taken_from_thieves(shared_mesh) == []


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_trusting_the_claims_of_tokens_is_caught(start_mesh: MakeMesh) -> None:
    program = [sys.executable, "-m", "tests.fault.planted.ownerless_keys"]
    async with start_mesh(programs={"identity": program}) as mesh:
        assert len(await taken_from_thieves(mesh)) == len(SERVICES) * (len(SERVICES) + 1)


async def test_replaced_operator_key_is_refused_everywhere_without_an_outage(start_mesh: MakeMesh) -> None:
    async with start_mesh() as mesh:
        old = mesh.token()

        async with channels.channel(mesh.address("ingest"), lambda: old) as channel:
            stream: Any = capture_pb2_grpc.CaptureServiceStub(channel).Stream()
            await stream.write(rows(Sample()))
            assert (await stream.read()).acknowledged == 1
            Keys(mesh.directory).renew_operator()

            async def refused_on_the_stream() -> Code:
                await stream.write(rows(Sample()))
                return await code_of(stream.read())

            last = await eventually(refused_on_the_stream, until=lambda code: code is not Code.OK)
            assert last is Code.UNAUTHENTICATED
            stub: Any = events_pb2_grpc.EventsServiceStub(channel)
            assert await code_of(stub.GetTotals(events_pb2.GetTotalsRequest())) is Code.UNAUTHENTICATED
        await eventually(lambda: onboarding(mesh, old), until=lambda code: code is Code.UNAUTHENTICATED)
        # All services refuse the old token, accept the new one, and keep working.
        assert await onboarding(mesh, mesh.token()) is Code.INVALID_ARGUMENT
        async with mesh.channel("ingest") as channel:
            capture: Any = capture_pb2_grpc.CaptureServiceStub(channel)
            assert await code_of(capture.Report(rows(Sample(), tenant_id="acme"))) is Code.OK
