"""Limits hold for the first calls after quiet too: many at once, on real servers, through the public API."""

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
    """One call; None when it is refused for the tenant's limit."""
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


async def at_once(*replicas: RunningIngest, tenant_id: str = "acme") -> list[Admitted]:
    """The calls that got in, of 20 on each replica that start together."""
    calls = [report(replica, tenant_id) for replica in replicas for _ in range(CALLS)]
    return [call for call in await asyncio.gather(*calls) if call is not None]


async def quiet(seconds: float) -> None:
    """Nobody calls for so long."""
    until = time.monotonic() + seconds
    await eventually(lambda: time.monotonic() >= until)


def beyond_the_bound(calls: list[Admitted], replicas: int) -> bool:
    return excess(calls, LIMITS, replicas=replicas, largest=EVENTS) > 0


@pytest.fixture
async def replicas(
    ingest: RunningIngest, database: TestDatabase, broker: NatsServer
) -> AsyncIterator[Sequence[RunningIngest]]:
    """Two, each of which has served calls when there was no limit yet."""
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(running_ingest(database, broker))
        await eventually(lambda: is_known(second, "acme"))
        for each in (ingest, second):
            assert await report(each)
        yield ingest, second


async def put_limits(replica: RunningIngest) -> None:
    await replica.limit_tenant("acme", LIMITS.events_per_second, LIMITS.burst)


async def test_the_first_calls_on_an_idle_replica_keep_to_a_limit_that_another_put(
    replicas: Sequence[RunningIngest],
) -> None:
    putting, idle = replicas
    await put_limits(putting)
    await quiet(LIMITS_SECONDS + 0.1)
    admitted = await at_once(idle)
    assert admitted
    assert not beyond_the_bound(admitted, replicas=1)


async def test_the_first_calls_on_two_idle_replicas_keep_to_the_bound_for_two(
    replicas: Sequence[RunningIngest],
) -> None:
    await put_limits(replicas[0])
    await quiet(LIMITS_SECONDS + 0.1)
    admitted = await at_once(*replicas)
    assert admitted
    assert not beyond_the_bound(admitted, replicas=2)


async def test_the_first_calls_after_a_limit_was_put_on_the_same_replica_keep_to_it(
    replicas: Sequence[RunningIngest],
) -> None:
    await put_limits(replicas[0])
    admitted = await at_once(replicas[0])
    assert admitted
    assert not beyond_the_bound(admitted, replicas=1)


class NewTenants(tenants_pb2_grpc.TenantsServiceServicer):
    """Identity, whose messages have not arrived: any name is a tenant's that was onboarded just now."""

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
async def newcomer(database: TestDatabase, broker: NatsServer) -> AsyncIterator[RunningIngest]:
    """A replica that limits a plan, and has heard of no tenant yet."""
    identity = aio.server()
    tenants = NewTenants()  # type: ignore[abstract]  # nothing else is asked
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


async def test_the_first_calls_of_a_tenant_that_only_identity_knows_keep_to_its_limit(
    newcomer: RunningIngest,
) -> None:
    admitted = await at_once(newcomer, tenant_id="new-tenant")
    assert admitted
    assert not beyond_the_bound(admitted, replicas=1)


async def test_tenants_that_are_not_limited_before_they_are_heard_of_are_caught(
    newcomer: RunningIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: who is limited is looked for in the replica alone, who may report in identity too."""
    asked = 0

    async def heard_of(self: KnownTenants, names: Iterable[str]) -> dict[str, Tenant]:
        nonlocal asked
        found = await self._directory._replica.find_many(list(names))
        asked += 1
        # None gets on before all have asked, so that the first one's tenant is not heard of by the last.
        await eventually(lambda: asked >= CALLS)
        return found

    monkeypatch.setattr(KnownTenants, "find_many", heard_of)
    assert beyond_the_bound(await at_once(newcomer, tenant_id="new-tenant"), replicas=1)


async def test_limits_that_are_used_whatever_their_age_are_caught(
    replicas: Sequence[RunningIngest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: one call looks for all, and the others go on with what was known."""
    asked = 0

    async def whatever_its_age(self: LimitRegistry) -> LimitBook:
        nonlocal asked
        asked += 1
        now = time.monotonic()
        if now - self._as_of > LIMITS_SECONDS:
            before, self._as_of = self._as_of, now
            # The look takes until the others have come.
            await eventually(lambda: asked >= CALLS)
            try:
                await self._looks.get(None)
            except MeterlineError:
                self._as_of = before
                raise
        return self._book

    await put_limits(replicas[0])
    await quiet(LIMITS_SECONDS + 0.1)
    monkeypatch.setattr(LimitRegistry, "current", whatever_its_age)
    assert beyond_the_bound(await at_once(replicas[1]), replicas=1)
