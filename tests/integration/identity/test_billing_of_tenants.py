"""A tenant's billing customer and first billed day."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from meterline.bus.connection import Bus
from meterline.clock import ManualClock, to_datetime

from tests.support.databases import TestDatabase
from tests.support.tenants import Stub, detail, facts, failure, onboard, request, update

pytestmark = pytest.mark.req("S1", "K1")


async def test_onboarding_sets_the_first_billed_day(tenants: Stub, bus: Bus) -> None:
    assert (await onboard(tenants, billed_from="2013-01-01")).billed_from == "2013-01-01"
    assert not (await tenants.OnboardTenant(request(billed_from="2013-01-01"))).created
    assert (await facts(bus, 1))[0].billed_from == "2013-01-01"
    assert (await update(tenants, billed_from="2013-02-01")).billed_from == "2013-02-01"
    error = await failure(update(tenants, billed_from="2013-01-01"))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert detail(error, error_details_pb2.ErrorInfo).reason == "BILLED_FROM_TOO_EARLY"
    for day in ("2013-1-1", "tomorrow", "2013-02-30"):
        for call in (
            tenants.OnboardTenant(request("other", billed_from=day)),
            update(tenants, billed_from=day),
        ):
            error = await failure(call)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == "billed_from"


@pytest.mark.parametrize(("zone", "day"), [("Pacific/Kiritimati", "2024-11-01"), ("UTC", "2024-10-01")])
async def test_first_billed_month_is_in_tenant_time_zone(
    tenants: Stub, clock: ManualClock, zone: str, day: str
) -> None:
    clock.advance(datetime(2024, 10, 31, 12, tzinfo=UTC) - to_datetime(clock.now_us()))
    assert (await onboard(tenants, time_zone=zone)).billed_from == day


@pytest.mark.req("S1")
async def test_tenant_may_have_no_customer(tenants: Stub) -> None:
    for slug in ("acme", "other"):
        made = await onboard(tenants, slug, plan="", external_customer_id="", external_subscription_id="")
        assert (made.external_customer_id, made.external_subscription_id) == ("", "")
    await update(tenants, "other", external_customer_id="cus_1")
    billed = await update(tenants, "other", external_customer_id="")
    assert billed.external_customer_id == ""


@pytest.mark.req("S1", "S6")
async def test_tenants_cannot_share_a_customer(tenants: Stub, bus: Bus) -> None:
    await onboard(tenants)
    await onboard(tenants, "other")
    calls = (
        tenants.OnboardTenant(request("third", external_customer_id="cus_1")),
        update(tenants, "other", external_customer_id="cus_1"),
    )
    for call in calls:
        error = await failure(call)
        assert error.code() == grpc.StatusCode.ALREADY_EXISTS
        resource = detail(error, error_details_pb2.ResourceInfo)
        assert (resource.resource_type, resource.resource_name) == ("external_customer_id", "cus_1")
        assert "acme" not in (error.details() or "")
    await facts(bus, 2)
    # A customer that its tenant no longer names is free, and a repeated earlier request changes nothing.
    await update(tenants, external_customer_id="cus_9")
    await update(tenants, "other", external_customer_id="cus_1")
    assert (await tenants.OnboardTenant(request())).tenant.external_customer_id == "cus_9"


@pytest.mark.req("T1.6", "S6")
async def test_one_of_concurrent_tenants_gets_the_customer(tenants: Stub) -> None:
    await onboard(tenants)
    results = await asyncio.gather(
        *(onboard(tenants, f"new-{number}", external_customer_id="cus_new") for number in range(5)),
        update(tenants, external_customer_id="cus_new"),
        return_exceptions=True,
    )
    codes = [result.code() for result in results if isinstance(result, aio.AioRpcError)]
    assert codes == [grpc.StatusCode.ALREADY_EXISTS] * 5


async def test_tenants_that_already_share_a_customer_can_be_changed(
    tenants: Stub, database: TestDatabase
) -> None:
    await onboard(tenants)
    await onboard(tenants, "twin")
    await database.change("UPDATE identity.tenant_accounts SET external_customer_id = 'cus_1'")
    assert (await update(tenants, "twin", display_name="Twin")).external_customer_id == "cus_1"
    assert (await update(tenants, "twin", external_customer_id="cus_2")).external_customer_id == "cus_2"
    assert (await failure(update(tenants, "twin", external_customer_id="cus_1"))).code() == (
        grpc.StatusCode.ALREADY_EXISTS
    )


# --- reading
