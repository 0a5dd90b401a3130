"""Limits hold for concurrent first calls after a time without calls, on real servers over the public API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc import aio
from meterline.errors import MeterlineError
from meterline.tenants import Tenant
from meterline_dev.servers import NatsServer
from meterline_ingest.rate_limits.cache import LIMITS_SECONDS, LimitRegistry
from meterline_ingest.rate_limits.rules.limits import LimitBook, Limits
from meterline_ingest.tenants.directory import KnownTenants
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc

from tests.support.capture import RunningIngest, Sample, columns, is_known, running_ingest
from tests.support.databases import TestDatabase
from tests.support.limits import Admitted, excess
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T4.2")

LIMITS = Limits(events_per_second=100, burst=100)
CALLS, EVENTS = 20, 400


def now_us() -> int:
    return time.monotonic_ns() // 1_000


async def report(replica: RunningIngest, tenant_id: str = "acme") -> Admitted | None:
    """Makes one call; returns None if the tenant's limit refuses it."""
    request = columns(*[Sample() for _ in range(EVENTS)], tenant_id=tenant_id)
    began = now_us()
    try:
        answer = await replica.report(request)
    except aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return None
    assert answer.accepted == EVENTS
    return Admitted(began, now_us(), EVENTS)


async def call_concurrently(*replicas: RunningIngest, tenant_id: str = "acme") -> list[Admitted]:
    """Starts 20 calls on each replica together; returns the admitted ones."""
    calls = [report(replica, tenant_id) for replica in replicas for _ in range(CALLS)]
    return [call for call in await asyncio.gather(*calls) if call is not None]


async def wait_without_calls(seconds: float) -> None:
    """Waits for some seconds."""
    until = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() >= until)


def beyond_the_bound(calls: list[Admitted], replicas: int) -> bool:
    return excess(calls, LIMITS, replicas=replicas, largest=EVENTS) > 0


@pytest.fixture
async def replicas(
    ingest: RunningIngest, database: TestDatabase, broker: NatsServer
) -> AsyncIterator[Sequence[RunningIngest]]:
    """Two replicas; each has served calls before there was a limit."""
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(running_ingest(database, broker))
        await eventually(lambda: is_known(second, "acme"))
        for each in (ingest, second):
            assert await report(each)
        yield ingest, second


async def put_limits(replica: RunningIngest) -> None:
    await replica.limit_tenant("acme", LIMITS.events_per_second, LIMITS.burst)


async def test_first_calls_on_idle_replica_keep_limit_put_on_another(
    replicas: Sequence[RunningIngest],
) -> None:
    putting, idle = replicas
    await put_limits(putting)
    await wait_without_calls(LIMITS_SECONDS + 0.1)
    admitted = await call_concurrently(idle)
    assert admitted
    assert not beyond_the_bound(admitted, replicas=1)


async def test_first_calls_on_two_idle_replicas_keep_the_bound(
    replicas: Sequence[RunningIngest],
) -> None:
    await put_limits(replicas[0])
    await wait_without_calls(LIMITS_SECONDS + 0.1)
    admitted = await call_concurrently(*replicas)
    assert admitted
    assert not beyond_the_bound(admitted, replicas=2)


async def test_first_calls_after_a_change_on_the_same_replica_keep_the_limit(
    replicas: Sequence[RunningIngest],
) -> None:
    await put_limits(replicas[0])
    admitted = await call_concurrently(replicas[0])
    assert admitted
    assert not beyond_the_bound(admitted, replicas=1)


class NewTenants(tenants_pb2_grpc.TenantsServiceServicer):
    """A fake of identity: every name is a tenant that was onboarded just now, without a message yet."""

    async def BatchGetTenants(
        self,
        request: tenants_pb2.BatchGetTenantsRequest,
        _: aio.ServicerContext[tenants_pb2.BatchGetTenantsRequest, tenants_pb2.BatchGetTenantsResponse],
    ) -> tenants_pb2.BatchGetTenantsResponse:
        tenant = tenants_pb2.Tenant(
            number=7, version=1, time_zone="UTC", currency="USD", plan="basic", active=True
        )
        tenant.updated_at.GetCurrentTime()
        tenant.tenant_id = request.tenant_ids[0]
        return tenants_pb2.BatchGetTenantsResponse(tenants=[tenant])


@pytest.fixture
async def new_replica(database: TestDatabase, broker: NatsServer) -> AsyncIterator[RunningIngest]:
    """A replica that knows limits of a plan, and no tenant yet."""
    identity = aio.server()
    tenants = NewTenants()  # type: ignore[abstract]  # no other RPC is called
    tenants_pb2_grpc.add_TenantsServiceServicer_to_server(tenants, identity)
    port = identity.add_insecure_port("127.0.0.1:0")
    await identity.start()
    try:
        async with running_ingest(database, broker, identity_address=f"127.0.0.1:{port}") as replica:
            await replica.put_type()
            await replica.limit_plan(LIMITS.events_per_second, LIMITS.burst)
            yield replica
    finally:
        await identity.stop(None)


async def test_first_calls_of_tenant_known_only_to_identity_keep_its_limit(
    new_replica: RunningIngest,
) -> None:
    admitted = await call_concurrently(new_replica, tenant_id="new-tenant")
    assert admitted
    assert not beyond_the_bound(admitted, replicas=1)


async def test_unlimited_unknown_tenants_are_caught(
    new_replica: RunningIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bug: limits are looked up for tenants of the local table only, not for those from identity."""
    asked = 0

    async def find_local(self: KnownTenants, names: Iterable[str]) -> dict[str, Tenant]:
        nonlocal asked
        found = await self._directory._replica.find_many(list(names))
        asked += 1
        # All calls wait for the last lookup, so that none finds a tenant that an earlier one has stored.
        await eventually(lambda: asked >= CALLS)
        return found

    monkeypatch.setattr(KnownTenants, "find_many", find_local)
    assert beyond_the_bound(await call_concurrently(new_replica, tenant_id="new-tenant"), replicas=1)


async def test_outdated_limits_are_caught(
    replicas: Sequence[RunningIngest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bug: while one call reloads the limits, the others use the old ones."""
    asked = 0

    async def current_without_wait(self: LimitRegistry) -> LimitBook:
        nonlocal asked
        asked += 1
        now = time.monotonic()
        if now - self._as_of > LIMITS_SECONDS:
            before, self._as_of = self._as_of, now
            # The reload lasts until all calls have started.
            await eventually(lambda: asked >= CALLS)
            try:
                await self._looks.get(None)
            except MeterlineError:
                self._as_of = before
                raise
        return self._book

    await put_limits(replicas[0])
    await wait_without_calls(LIMITS_SECONDS + 0.1)
    monkeypatch.setattr(LimitRegistry, "current", current_without_wait)
    assert beyond_the_bound(await call_concurrently(replicas[1]), replicas=1)
