"""Limits through the API: changed, listed, and enforced for calls and streams, on every replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from meterline_client import Client, Stats
from meterline_dev.servers import NatsServer
from meterline_protos.ingest.v1 import capture_pb2, limits_pb2

from tests.support.capture import RunningIngest, Sample, columns, is_known, rows, running_ingest
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T4.2")

Form = Callable[..., capture_pb2.ReportRequest]
# Adds hardly any token during a test.
SLOWLY = 1


def samples(count: int, tenant_id: str = "") -> list[Sample]:
    return [Sample(tenant_id=tenant_id) for _ in range(count)]


async def found(ingest: RunningIngest, slug: str = "acme") -> limits_pb2.GetTenantLimitsResponse:
    response: limits_pb2.GetTenantLimitsResponse = await ingest.limits.GetTenantLimits(
        limits_pb2.GetTenantLimitsRequest(tenant_id=slug)
    )
    return response


async def refusal(
    ingest: RunningIngest, request: capture_pb2.ReportRequest
) -> tuple[dict[str, str], error_details_pb2.RetryInfo]:
    """The violations by subject, and the retry delay."""
    with pytest.raises(aio.AioRpcError) as caught:
        await ingest.report(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(quota)
        detail.Unpack(retry)
    return {each.subject: each.description for each in quota.violations}, retry


async def test_limits_of_plans_are_put_and_listed(ingest: RunningIngest) -> None:
    await ingest.limit_plan(100, plan="small")
    await ingest.limit_plan(500, 5_000, plan="large", weight=4)
    await ingest.limit_plan(200, plan="small")

    listed = await ingest.limits.ListPlanLimits(limits_pb2.ListPlanLimitsRequest())

    assert [(each.plan, each.limits) for each in listed.plan_limits] == [
        ("large", limits_pb2.Limits(events_per_second=500, burst=5_000, weight=4)),
        ("small", limits_pb2.Limits(events_per_second=200, burst=200, weight=1)),
    ]


async def test_limits_of_a_tenant_apply_until_they_are_deleted(ingest: RunningIngest) -> None:
    none = await found(ingest)
    assert (none.origin, none.HasField("left")) == (limits_pb2.LIMIT_ORIGIN_NONE, False)

    await ingest.limit_plan(10, 20)
    of_plan = await found(ingest)
    assert (of_plan.origin, of_plan.limits.burst, of_plan.left) == (limits_pb2.LIMIT_ORIGIN_PLAN, 20, 20)

    await ingest.limit_tenant("acme", 30)
    own = await found(ingest)
    assert (own.origin, own.limits.events_per_second) == (limits_pb2.LIMIT_ORIGIN_TENANT, 30)

    for _ in range(2):
        await ingest.limits.DeleteTenantLimits(limits_pb2.DeleteTenantLimitsRequest(tenant_id="acme"))
        assert (await found(ingest)).origin == limits_pb2.LIMIT_ORIGIN_PLAN


async def test_every_change_of_limits_is_recorded_with_its_author(
    ingest: RunningIngest, database: TestDatabase
) -> None:
    limits = limits_pb2.Limits(events_per_second=5)
    await ingest.limits.PutTenantLimits(
        limits_pb2.PutTenantLimitsRequest(tenant_id="acme", limits=limits, changed_by="ann")
    )
    for by in ("bob", "unused: the limits are deleted already"):
        await ingest.limits.DeleteTenantLimits(
            limits_pb2.DeleteTenantLimitsRequest(tenant_id="acme", changed_by=by)
        )
    with psycopg.connect(database.admin_dsn) as connection:
        kept = connection.execute(
            "SELECT tenant_id, changed_by, events_per_second FROM ingest.limit_changes ORDER BY change"
        ).fetchall()
    assert kept == [(1, "ann", 5), (1, "bob", None)]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (limits_pb2.PutPlanLimitsRequest(plan=""), "plan"),
        (limits_pb2.PutPlanLimitsRequest(plan="p" * 65), "plan"),
        (limits_pb2.PutPlanLimitsRequest(plan="a plan"), "plan"),
        (limits_pb2.PutPlanLimitsRequest(plan="p", changed_by="n" * 129), "changed_by"),
        (limits_pb2.PutPlanLimitsRequest(plan="p", limits=limits_pb2.Limits(burst=1)), "limits.burst"),
    ],
)
async def test_invalid_limits_are_refused_with_their_field(
    ingest: RunningIngest, request_: limits_pb2.PutPlanLimitsRequest, field: str
) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await ingest.limits.PutPlanLimits(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(f"{field}: ")


async def test_limits_of_unknown_tenant_are_not_found(ingest: RunningIngest) -> None:
    for call in (
        ingest.limits.GetTenantLimits(limits_pb2.GetTenantLimitsRequest(tenant_id="nobody")),
        ingest.limits.PutTenantLimits(limits_pb2.PutTenantLimitsRequest(tenant_id="nobody")),
        ingest.limits.DeleteTenantLimits(limits_pb2.DeleteTenantLimitsRequest(tenant_id="nobody")),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("form", [rows, columns])
async def test_call_over_the_limit_is_refused_with_retry_delay(ingest: RunningIngest, form: Form) -> None:
    await ingest.limit_plan(2, 20)
    assert (await ingest.report(form(*samples(20)))).accepted == 20

    violations, retry = await refusal(ingest, form(*samples(5)))

    assert violations == {"tenant:acme": "2 events a second, 20 at once"}
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 1
    assert (await found(ingest)).left < 5
    # A retry after the delay is admitted, and overdraws the bucket.
    await eventually(lambda: is_admitted(ingest, form(*samples(5))))
    assert (await found(ingest)).left < 0


async def is_admitted(ingest: RunningIngest, request: capture_pb2.ReportRequest) -> bool:
    try:
        await ingest.report(request)
    except aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True


@pytest.fixture
async def bolt(ingest: RunningIngest) -> RunningIngest:
    """Ingest with a second tenant, `bolt`."""
    await ingest.onboard(2, "bolt")
    await eventually(lambda: is_known(ingest, "bolt"))
    return ingest


@pytest.mark.parametrize("form", [rows, columns])
async def test_refused_call_of_several_tenants_names_the_limited_and_uses_no_tokens(
    bolt: RunningIngest, form: Form
) -> None:
    await bolt.limit_tenant("acme", SLOWLY, 100)
    await bolt.limit_tenant("bolt", SLOWLY, 10)
    assert (await bolt.report(form(*samples(10, "bolt")))).accepted == 10

    violations, _ = await refusal(bolt, form(*samples(30, "acme"), *samples(1, "bolt")))

    assert violations == {"tenant:bolt": "1 events a second, 10 at once"}
    # The refused call used none of the 100 tokens of `acme`.
    assert (await bolt.report(form(*samples(100, "acme")))).accepted == 100


async def test_limited_tenant_does_not_affect_tenants_without_limits(bolt: RunningIngest) -> None:
    await bolt.limit_tenant("acme", SLOWLY, 1)
    await bolt.report(rows(*samples(50)))
    await refusal(bolt, rows(*samples(1)))
    assert (await bolt.report(rows(*samples(500), tenant_id="bolt"))).accepted == 500


@pytest.mark.req("T2.4")
async def test_stream_over_the_limit_is_delayed_and_does_not_fail(ingest: RunningIngest) -> None:
    await ingest.limit_plan(200, 50)
    sent = 150

    async def messages() -> AsyncIterator[capture_pb2.StreamRequest]:
        for _ in range(sent):
            yield capture_pb2.StreamRequest(tenant_id="acme", source="test", event=Sample().to_row())

    started = asyncio.get_running_loop().time()
    acknowledged = 0
    async for response in ingest.capture.Stream(messages(), timeout=60):
        acknowledged = response.acknowledged
        assert not response.outcomes
    assert acknowledged == sent
    # 50 events at once, 100 at 200 a second, except for one block of a lease.
    assert asyncio.get_running_loop().time() - started > 0.35


@pytest.mark.req("T1.1")
async def test_client_waits_for_the_limit_and_loses_no_event(ingest: RunningIngest) -> None:
    await ingest.limit_plan(200, 50)
    assert (await found(ingest)).left == 50

    def work() -> Stats:
        with Client(ingest.address, tenant_id="acme", source="test", batch_events=20) as client:
            for _ in range(200):
                client.record("api.request", subject="u", quantities={"units": 1})
            assert client.flush(60)
            return client.stats

    stats = await asyncio.to_thread(work)
    assert (stats.recorded, stats.accepted, stats.dropped, stats.failed) == (200, 200, 0, 0)
    assert stats.retries > 0


@pytest.fixture
async def second(
    ingest: RunningIngest, database: TestDatabase, broker: NatsServer
) -> AsyncIterator[RunningIngest]:
    """A second replica."""
    async with running_ingest(database, broker) as service:
        await eventually(lambda: is_known(service, "acme"))
        yield service


async def test_change_of_limits_reaches_the_other_replica_within_seconds(
    ingest: RunningIngest, second: RunningIngest
) -> None:
    await second.report(rows(*samples(100)))
    await ingest.limit_plan(SLOWLY, 10)
    await ingest.report(rows(*samples(100)))

    async def refused() -> bool:
        return not await is_admitted(second, rows(*samples(1)))

    await eventually(refused, seconds=10)
    await ingest.limit_plan(0)
    await eventually(lambda: is_admitted(second, rows(*samples(1))), seconds=10)


@pytest.mark.req("T2.4")
async def test_call_refused_by_the_full_queue_returns_its_tokens(
    database: TestDatabase, broker: NatsServer
) -> None:
    async with running_ingest(database, broker, max_queued_events=100) as service:
        await service.put_type()
        await service.onboard(1, "acme")
        await eventually(lambda: is_known(service, "acme"))
        await service.limit_plan(SLOWLY, 500)
        assert await left_of(service, "acme") == 500
        with psycopg.connect(database.admin_dsn) as connection:
            # The first call is queued but cannot be stored, so the queue has no room for the others.
            connection.execute("LOCK TABLE ingest.events IN ACCESS EXCLUSIVE MODE")
            first = asyncio.ensure_future(service.report(rows(*samples(60))))
            await eventually(lambda: left_of(service, "acme"), until=lambda left: left < 500)
            for _ in range(20):
                with pytest.raises(aio.AioRpcError) as caught:
                    await service.report(rows(*samples(60)))
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert caught.value.details() == "the tenant's share of the capture queue is full"
        assert (await first).accepted == 60
        for _ in range(4):
            assert (await service.report(rows(*samples(99)))).accepted == 99


async def left_of(ingest: RunningIngest, slug: str) -> int:
    return (await found(ingest, slug)).left
