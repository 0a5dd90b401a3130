"""An archived plan takes no new versions and no new tenants; tenants that have it are still billed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from grpc import aio
from meterline_identity.main import Identity
from meterline_identity.settings import IdentitySettings
from meterline_protos.identity.v1 import tenants_pb2_grpc
from meterline_protos.publisher.v1 import prices_pb2
from meterline_publisher.main import Publisher
from meterline_publisher.prices import service as prices_service

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher, settings
from tests.integration.publisher.test_billing_gaps import END, closer, gaps_of
from tests.integration.publisher.test_deliveries import put as put_delivery
from tests.integration.publisher.test_deliveries import refusal
from tests.integration.publisher.world import Api, World
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.services import running, settings_for
from tests.support.tenants import request, update

pytestmark = pytest.mark.req("C1", "S1")

CALLS = Priced("calls", PER_UNIT)
NEXT: dict[str, Any] = {"version": 2, "effective_from": None, "effective_date": "2026-05-01"}
ARCHIVED = (grpc.StatusCode.FAILED_PRECONDITION, "PLAN_ARCHIVED")


async def archive(api: Api, plan: str = "plan-acme") -> bool:
    return (await api.prices.ArchivePlan(prices_pb2.ArchivePlanRequest(plan=plan))).archived


async def restore(api: Api, plan: str = "plan-acme") -> bool:
    return (await api.prices.RestorePlan(prices_pb2.RestorePlanRequest(plan=plan))).restored


async def plans(api: Api, **of: str) -> dict[str, prices_pb2.Plan]:
    answer = await api.prices.ListPrices(prices_pb2.ListPricesRequest(**of))
    return {plan.plan: plan for plan in answer.plans}


async def test_archived_plan_refuses_new_versions_until_restored(world: World, api: Api) -> None:
    first = await api.put("plan-acme", CALLS)
    assert await archive(api)
    world.mesh.add_meter("other")
    for call in (api.put("plan-acme", CALLS, **NEXT), api.put("plan-acme", Priced("other", PER_UNIT))):
        assert await refusal(call) == ARCHIVED
    # Existing versions are answered as before, and other plans are not affected.
    assert await api.put("plan-acme", CALLS) == first
    await api.put("plan-other", CALLS)
    assert await restore(api)
    assert (await api.put("plan-acme", CALLS, **NEXT)).version == 2


async def test_repeated_archive_and_restore_change_nothing(world: World, api: Api) -> None:
    await api.put("plan-acme", CALLS)
    await api.put("plan-other", CALLS)
    assert not await restore(api)
    assert await archive(api)
    (since,) = [plan.archived_at for plan in (await plans(api)).values() if plan.HasField("archived_at")]
    world.clock.advance(timedelta(hours=1))
    assert not await archive(api)
    listed = await plans(api)
    assert list(listed) == ["plan-acme", "plan-other"]
    assert (listed["plan-acme"].archived_at, listed["plan-acme"].archived_by) == (since, "anonymous")
    assert listed["plan-other"] == prices_pb2.Plan(plan="plan-other")
    assert await restore(api)
    assert not await restore(api)
    assert await plans(api, plan="plan-acme") == {"plan-acme": prices_pb2.Plan(plan="plan-acme")}
    rows = world.rows("SELECT version, archived FROM plan_archivals ORDER BY version")
    assert rows == [(1, True), (2, False)]


async def test_plan_without_price_is_not_found(api: Api) -> None:
    for call in (archive(api, "nowhere"), restore(api, "nowhere")):
        with pytest.raises(aio.AioRpcError) as failure:
            await call
        assert failure.value.code() == grpc.StatusCode.NOT_FOUND
    for call in (archive(api, "-"), restore(api, "")):
        with pytest.raises(aio.AioRpcError) as failure:
            await call
        assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.req("S5")
async def test_tenants_of_archived_plan_are_still_billed(world: World, start: StartPublisher) -> None:
    """This includes a tenant that got the plan while it was archived; its delivery can still be changed."""
    api = await closer(world, start)
    acme = await world.tenant(now=END - timedelta(minutes=30))
    assert await archive(api)
    await put_delivery(api, 2, acme.events["calls"], scale=1)
    await world.use("acme", "10")
    world.mesh.add_tenant("late", 2, "UTC")
    await world.announce("late", 2, plan="plan-acme")
    await eventually(lambda: world.at_provider(acme) == 100)
    assert [invoice.total for invoice in await api.invoice_list("acme")] == ["0.10"]
    assert (await api.preview("late")).total == "0.00"
    assert await gaps_of(api) == []
    assert (await plans(api, tenant_id="acme"))["plan-acme"].HasField("archived_at")


async def test_concurrent_version_and_archive_are_serialized(world: World, api: Api) -> None:
    await api.put("plan-acme", CALLS)
    results = await asyncio.gather(archive(api), api.put("plan-acme", CALLS, **NEXT), return_exceptions=True)
    assert results[0] is True
    assert await refusal(api.put("plan-acme", CALLS, **(NEXT | {"version": 3}))) == ARCHIVED


async def test_archiver_of_plan_stays_on_record(world: World, api: Api) -> None:
    await api.put("plan-acme", CALLS)
    await archive(api)
    for change in ("UPDATE plan_archivals SET archived = false", "DELETE FROM plan_archivals"):
        with pytest.raises(psycopg.Error):
            world.rows(change)


async def test_identity_refuses_archived_plan_for_other_tenants(
    world: World, make_database: Callable[..., TestDatabase]
) -> None:
    publisher = Publisher(settings(world), world.clock)
    async with running(publisher) as channel:
        api = Api(channel, world.mesh)
        for plan in ("gold", "silver"):
            await api.put(plan, CALLS)
        values = settings_for("identity", make_database("identity"), world.broker)
        values["publisher_address"] = publisher.server.address
        async with running(Identity(IdentitySettings.model_validate(values), world.clock)) as to_identity:
            tenants = tenants_pb2_grpc.TenantsServiceStub(to_identity)
            first = (await tenants.OnboardTenant(request(plan="gold"))).tenant
            await tenants.OnboardTenant(request("other", plan="silver"))
            await archive(api, "gold")
            assert await refusal(tenants.OnboardTenant(request("new", plan="gold"))) == ARCHIVED
            assert await refusal(update(tenants, "other", plan="gold")) == ARCHIVED
            # A tenant that has the plan keeps it until it changes to another one.
            assert (await tenants.OnboardTenant(request(plan="gold"))).tenant == first
            kept = await update(tenants, plan="gold", display_name="Acme again")
            assert (kept.plan, kept.display_name) == ("gold", "Acme again")
            await update(tenants, plan="silver")
            assert await refusal(update(tenants, plan="gold")) == ARCHIVED
            await restore(api, "gold")
            assert (await update(tenants, plan="gold")).plan == "gold"


async def test_missing_archive_check_is_detected(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: PutPrice does not check whether the plan is archived."""

    async def passes(*_: object) -> None: ...

    monkeypatch.setattr(prices_service, "require_not_archived", passes)
    await api.put("plan-acme", CALLS)
    await archive(api)
    assert (await api.put("plan-acme", CALLS, **NEXT)).version == 2
