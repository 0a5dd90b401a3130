"""Fault 18: keys are rotated and revoked under load. No valid call fails, and none is taken that came later
after a revocation than it is said."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from grpc import aio
from meterline.auth.principals import Permission
from meterline_dev.channels import metadata
from meterline_dev.mesh import Mesh
from meterline_protos.identity.v1 import credentials_pb2
from meterline_protos.ingest.v1 import capture_pb2_grpc

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import accepted
from tests.support.capture import Sample, rows
from tests.support.credentials import Operator, SignedClient, refusal, signed_rows

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

# What is said of the default is two seconds; a test need not wait that long for the same to show.
FRESH = 0.3
# Calls that are sent after the promised moment.
LATE_CALLS = 100
ENVIRONMENT = {"ingest": {"METERLINE_CREDENTIAL_FRESH_SECONDS": str(FRESH)}}

Attempt = Callable[[], Awaitable[object]]
Stub = Any
Revoke = Callable[[Operator, Stub], Awaitable[list[float]]]


class Clients:
    """Clients that report without a pause, each with the configuration of the newest key that it has seen."""

    def __init__(self, operator: Operator, stub: Stub) -> None:
        self._operator = operator
        self._stub = stub
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.client: SignedClient | None = None
        self.reported = 0
        self.progress = asyncio.Event()

    async def renew(self) -> SignedClient:
        self.client = await self._operator.client("acme")
        return self.client

    async def __aenter__(self) -> Clients:
        await self.renew()
        self._tasks = [asyncio.create_task(self._report()) for _ in range(8)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        # A call that failed fails the test here.
        await asyncio.gather(*self._tasks)

    async def _report(self) -> None:
        while not self._stop.is_set():
            assert self.client is not None
            answer = await self._stub.ReportSigned(signed_rows(self.client, Sample()), timeout=30)
            assert answer.report.accepted == 1, answer
            self.reported += 1
            self.progress.set()

    async def more(self, calls: int) -> None:
        """Waits for so many more calls, none of which failed."""
        goal = self.reported + calls
        while self.reported < goal:
            self.progress.clear()
            progress = asyncio.create_task(self.progress.wait())
            await asyncio.wait({progress, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            progress.cancel()
            for task in self._tasks:
                if task.done():
                    task.result()


async def taken_late(attempt: Attempt, revoked_at: float) -> list[float]:
    """Seconds after the revocation at which calls that were taken began, if that is later than it is said.

    Calls follow one another until the promised moment is over, and go on for a while.
    """
    late, after = [], 0
    while after < LATE_CALLS:
        began = time.monotonic() - revoked_at
        after += began > FRESH
        try:
            await attempt()
        except aio.AioRpcError as error:
            if refusal(error)[1] not in ("KEY_REVOKED", "TOKEN_INVALID"):
                raise
        else:
            if began > FRESH:
                late.append(began)
    return late


async def revoked_signing_key(operator: Operator, stub: Stub) -> list[float]:
    """Clients move to a new key, the old one is revoked, and somebody stays behind with it."""
    await operator.rotate("acme")
    async with Clients(operator, stub) as clients:
        await clients.more(50)
        left_behind = clients.client
        assert left_behind is not None
        await operator.rotate("acme")
        await clients.more(50)
        await clients.renew()
        await clients.more(50)
        await stub.ReportSigned(signed_rows(left_behind, Sample()))
        await operator.revoke("acme", left_behind.key_id)
        revoked_at = time.monotonic()
        late = await taken_late(
            lambda: stub.ReportSigned(signed_rows(left_behind, Sample()), timeout=30), revoked_at
        )
        await clients.more(50)
    return late


async def revoked_api_key(operator: Operator, stub: Stub) -> list[float]:
    made = await operator.api_key("acme", Permission.CAPTURE)
    key = metadata(made.token)

    async def report() -> object:
        return await stub.Report(rows(Sample()), metadata=key, timeout=30)

    await report()
    await operator.credentials.RevokeApiKey(
        credentials_pb2.RevokeApiKeyRequest(tenant_id="acme", key_id=made.api_key.key_id)
    )
    return await taken_late(report, time.monotonic())


both_kinds = pytest.mark.parametrize("revoke", [revoked_signing_key, revoked_api_key])


async def late_calls(mesh: Mesh, revoke: Revoke, rounds: int) -> list[float]:
    async with (
        mesh.channel("identity") as identity,
        mesh.channel("ingest") as ingest,
        aio.insecure_channel(mesh.address("ingest")) as bare,
    ):
        operator = Operator(identity, ingest, mesh.address("ingest"))
        late = []
        for _ in range(rounds):
            late += await revoke(operator, capture_pb2_grpc.CaptureServiceStub(bare))
            listed = await operator.credentials.ListSigningKeys(
                credentials_pb2.ListSigningKeysRequest(tenant_id="acme")
            )
            for key in listed.signing_keys:
                if not key.HasField("revoked_at"):
                    await operator.revoke("acme", key.key_id)
    return late


@both_kinds
@pytest.mark.req("T1.4", "T4.1", "X7")
async def test_rotation_fails_no_valid_call_and_revocation_holds(
    start_mesh: MakeMesh, lengths: Lengths, revoke: Revoke
) -> None:
    rounds = 1 if lengths.rounds <= 3 else lengths.rounds
    async with start_mesh(environment=ENVIRONMENT) as mesh:
        assert await late_calls(mesh, revoke, rounds) == []
        assert (await accepted(mesh))["acme"] > 0


@pytest.mark.planted
@both_kinds
@pytest.mark.req("X7")
async def test_a_service_that_never_asks_again_is_caught(start_mesh: MakeMesh, revoke: Revoke) -> None:
    programs = {"ingest": [sys.executable, "-m", "tests.fault.planted.unforgetting_credentials"]}
    async with start_mesh(environment=ENVIRONMENT, programs=programs) as mesh:
        assert len(await late_calls(mesh, revoke, 1)) == LATE_CALLS
