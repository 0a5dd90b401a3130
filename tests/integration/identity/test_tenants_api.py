"""TenantsService over gRPC with real servers: onboarding, reading, changing, and published messages."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from meterline.bus.connection import Bus
from meterline.clock import ManualClock, to_datetime
from meterline_protos.events.v1 import events_pb2
from meterline_protos.identity.v1 import tenants_pb2

from tests.support.databases import TestDatabase
from tests.support.tenants import Stub, detail, facts, failure, get, onboard, request, update

pytestmark = pytest.mark.req("S1", "K1")


async def test_onboarded_tenant_has_requested_fields(tenants: Stub, clock: ManualClock) -> None:
    answer = await tenants.OnboardTenant(request(close_lead_seconds=60))
    assert answer.created
    expected = tenants_pb2.Tenant(
        tenant_id="acme",
        display_name="Acme, Inc.",
        time_zone="America/New_York",
        currency="USD",
        plan="gold",
        external_customer_id="cus_1",
        external_subscription_id="sub_1",
        active=True,
        close_lead_seconds=60,
        version=1,
        number=1,
        billed_from="2024-10-01",
    )
    expected.created_at.FromDatetime(to_datetime(clock.now_us()))
    expected.updated_at.FromDatetime(to_datetime(clock.now_us()))
    assert answer.tenant == expected
    assert await get(tenants) == expected


async def test_default_close_lead_is_ten_minutes(tenants: Stub) -> None:
    assert (await onboard(tenants)).close_lead_seconds == 600


async def test_close_lead_can_be_zero(tenants: Stub) -> None:
    answer = await tenants.OnboardTenant(request(close_lead_seconds=0))
    assert answer.tenant.close_lead_seconds == 0
    # A request without the field is a different request.
    with pytest.raises(aio.AioRpcError) as other:
        await tenants.OnboardTenant(request())
    assert other.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_repeated_onboarding_returns_the_same_tenant(
    tenants: Stub, clock: ManualClock, bus: Bus
) -> None:
    first = await onboard(tenants)
    clock.advance(timedelta(hours=1))
    again = await tenants.OnboardTenant(request())
    assert not again.created
    assert again.tenant == first
    # A request that states the default is the same request.
    assert not (await tenants.OnboardTenant(request(close_lead_seconds=600))).created
    await facts(bus, 1)


async def test_repeated_onboarding_returns_the_current_tenant(tenants: Stub) -> None:
    await onboard(tenants)
    changed = await update(tenants, plan="silver", active=False)
    again = await tenants.OnboardTenant(request())
    assert (again.created, again.tenant) == (False, changed)


@pytest.mark.parametrize(
    "other",
    [
        {"display_name": "Acme"},
        {"time_zone": "Europe/Berlin"},
        {"currency": "EUR"},
        {"plan": "silver"},
        {"external_customer_id": "cus_2"},
        {"external_subscription_id": "sub_2"},
        {"close_lead_seconds": 601},
        {"billed_from": "2024-10-01"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_onboarding_with_a_used_name_and_other_content_is_refused(
    tenants: Stub, bus: Bus, other: dict[str, Any]
) -> None:
    first = await onboard(tenants)
    error = await failure(tenants.OnboardTenant(request(**other)))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS
    resource = detail(error, error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("tenant", "acme")
    assert await get(tenants) == first
    await facts(bus, 1)


@pytest.mark.req("T1.6")
async def test_concurrent_identical_requests_create_one_tenant(tenants: Stub, bus: Bus) -> None:
    answers = await asyncio.gather(*(tenants.OnboardTenant(request()) for _ in range(20)))
    assert sum(answer.created for answer in answers) == 1
    assert len({answer.tenant.SerializeToString() for answer in answers}) == 1
    await facts(bus, 1)


@pytest.mark.req("T1.6")
async def test_one_of_concurrent_different_requests_succeeds(tenants: Stub, bus: Bus) -> None:
    results = await asyncio.gather(
        *(tenants.OnboardTenant(request(plan=f"plan-{number}")) for number in range(10)),
        return_exceptions=True,
    )
    codes = [result.code() for result in results if isinstance(result, aio.AioRpcError)]
    assert codes == [grpc.StatusCode.ALREADY_EXISTS] * 9
    await facts(bus, 1)


async def test_repeated_request_uses_no_tenant_number(tenants: Stub) -> None:
    for _ in range(5):
        await onboard(tenants, "first")
    assert (await onboard(tenants, "second")).number == 2


async def test_invalid_request_names_field_and_rule(tenants: Stub, bus: Bus) -> None:
    error = await failure(tenants.OnboardTenant(request(time_zone="Mars/Olympus")))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("time_zone", "must be the name of an IANA time zone")
    await facts(bus, 0)


# --- billing


async def test_unknown_tenant_is_not_found(tenants: Stub) -> None:
    for call in (
        tenants.GetTenant(tenants_pb2.GetTenantRequest(tenant_id="nobody")),
        tenants.UpdateTenant(tenants_pb2.UpdateTenantRequest(tenant_id="nobody")),
    ):
        assert (await failure(call)).code() == grpc.StatusCode.NOT_FOUND


async def test_malformed_tenant_name_is_an_invalid_argument(tenants: Stub) -> None:
    for call in (
        tenants.GetTenant(tenants_pb2.GetTenantRequest()),
        tenants.GetTenant(tenants_pb2.GetTenantRequest(tenant_id="'; DROP TABLE tenant_accounts")),
        tenants.UpdateTenant(tenants_pb2.UpdateTenantRequest(tenant_id="A")),
    ):
        assert (await failure(call)).code() == grpc.StatusCode.INVALID_ARGUMENT


async def pages(tenants: Stub, size: int) -> list[list[str]]:
    """All pages of `size`, each as its tenants' names."""
    found, token = [], ""
    while True:
        ask = tenants_pb2.ListTenantsRequest(page_size=size, page_token=token)
        answer = await tenants.ListTenants(ask)
        found.append([tenant.tenant_id for tenant in answer.tenants])
        token = answer.next_page_token
        if not token:
            return found


async def test_batch_get_tenants_omits_unknown_names(tenants: Stub) -> None:
    first, second = [await onboard(tenants, name) for name in ("zebra", "acme")]
    names = ["acme", "nobody", "zebra", "acme", "", "No Name", "a\0b", "x" * 64]
    answer = await tenants.BatchGetTenants(tenants_pb2.BatchGetTenantsRequest(tenant_ids=names))
    assert list(answer.tenants) == [first, second]
    assert not (await tenants.BatchGetTenants(tenants_pb2.BatchGetTenantsRequest())).tenants
    too_many = tenants_pb2.BatchGetTenantsRequest(tenant_ids=["acme"] * 1_001)
    error = await failure(tenants.BatchGetTenants(too_many))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "tenant_ids" in (error.details() or "")


async def test_tenants_are_listed_in_pages_in_order_of_onboarding(tenants: Stub) -> None:
    assert await pages(tenants, 2) == [[]]
    for name in ("e", "d", "c", "b", "a"):
        await onboard(tenants, name)
    assert await pages(tenants, 2) == [["e", "d"], ["c", "b"], ["a"]]
    assert await pages(tenants, 5) == [["e", "d", "c", "b", "a"]]
    assert await pages(tenants, 0) == [["e", "d", "c", "b", "a"]]


async def test_tenant_onboarded_between_pages_does_not_shift_them(tenants: Stub) -> None:
    for name in ("a", "b", "c"):
        await onboard(tenants, name)
    first = await tenants.ListTenants(tenants_pb2.ListTenantsRequest(page_size=2))
    await onboard(tenants, "0-first-by-name")
    ask = tenants_pb2.ListTenantsRequest(page_size=9, page_token=first.next_page_token)
    rest = await tenants.ListTenants(ask)
    assert [tenant.tenant_id for tenant in rest.tenants] == ["c", "0-first-by-name"]


async def test_invalid_page_token_is_refused(tenants: Stub) -> None:
    error = await failure(tenants.ListTenants(tenants_pb2.ListTenantsRequest(page_token="garbage")))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == "page_token"


# --- changing


async def test_update_changes_only_set_fields(tenants: Stub, clock: ManualClock) -> None:
    before = await onboard(tenants)
    clock.advance(timedelta(days=1))
    after = await update(tenants, plan="silver", display_name="", close_lead_seconds=0)
    expected = tenants_pb2.Tenant()
    expected.CopyFrom(before)
    expected.MergeFrom(tenants_pb2.Tenant(plan="silver", version=2))
    expected.display_name = ""
    expected.close_lead_seconds = 0
    expected.updated_at.FromDatetime(to_datetime(clock.now_us()))
    assert after == expected
    assert await get(tenants) == expected


async def test_update_without_change_creates_no_version(tenants: Stub, bus: Bus) -> None:
    before = await onboard(tenants)
    assert await update(tenants) == before
    assert await update(tenants, plan="gold", active=True, expected_version=1) == before
    await facts(bus, 1)


async def test_update_of_outdated_version_is_aborted(tenants: Stub, bus: Bus) -> None:
    await onboard(tenants)
    await update(tenants, plan="silver", expected_version=1)
    error = await failure(update(tenants, plan="bronze", expected_version=1))
    assert error.code() == grpc.StatusCode.ABORTED
    assert error.details() == "tenant 'acme' is at version 2, not 1"
    assert (await get(tenants)).plan == "silver"
    await facts(bus, 2)


async def test_negative_version_is_an_invalid_argument(tenants: Stub) -> None:
    await onboard(tenants)
    error = await failure(update(tenants, expected_version=-1))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.req("T1.6")
async def test_one_of_concurrent_updates_of_a_version_succeeds(tenants: Stub, bus: Bus) -> None:
    await onboard(tenants)
    results = await asyncio.gather(
        *(update(tenants, plan=f"plan-{number}", expected_version=1) for number in range(10)),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, tenants_pb2.Tenant)]
    assert [tenant.version for tenant in won] == [2]
    assert await get(tenants) == won[0]
    await facts(bus, 2)


@pytest.mark.req("T1.6")
async def test_concurrent_updates_without_version_are_all_applied(tenants: Stub, bus: Bus) -> None:
    await onboard(tenants)
    results = await asyncio.gather(
        *(update(tenants, plan=f"plan-{number}", active=number % 2 == 0) for number in range(10))
    )
    assert sorted(tenant.version for tenant in results) == list(range(2, 12))
    published = await facts(bus, 11)
    assert sorted(fact.version for fact in published) == list(range(1, 12))


# --- published messages


@pytest.mark.req("K2", "K3")
async def test_every_change_is_published_with_the_full_state(
    tenants: Stub, bus: Bus, clock: ManualClock
) -> None:
    onboarded = await onboard(tenants)
    clock.advance(timedelta(seconds=1))
    changed = await update(tenants, active=False, external_subscription_id="sub_2")
    published = sorted(await facts(bus, 2), key=lambda fact: fact.version)
    for tenant, fact in zip([onboarded, changed], published, strict=True):
        assert fact == events_pb2.TenantChanged(
            tenant_id=tenant.number,
            slug=tenant.tenant_id,
            version=tenant.version,
            time_zone=tenant.time_zone,
            currency=tenant.currency,
            plan=tenant.plan,
            external_customer_id=tenant.external_customer_id,
            external_subscription_id=tenant.external_subscription_id,
            active=tenant.active,
            close_lead_seconds=tenant.close_lead_seconds,
            changed_at=tenant.updated_at,
            billed_from=tenant.billed_from,
            billing_provider=tenant.billing_provider,
        )


@pytest.mark.req("K3")
async def test_identity_has_no_replica_of_its_own_tenants(tenants: Stub, database: TestDatabase) -> None:
    await onboard(tenants)
    with psycopg.connect(database.app_dsn("identity")) as connection:
        assert connection.execute("SELECT to_regclass('tenants')").fetchall() == [(None,)]
