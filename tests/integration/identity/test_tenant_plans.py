"""Identity accepts a plan only if the publisher's catalogue has it in the tenant's currency."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from meterline.clock import ManualClock
from meterline_dev.servers import NatsServer
from meterline_identity.main import Identity
from meterline_identity.settings import IdentitySettings
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc
from meterline_protos.publisher.v1 import prices_pb2, prices_pb2_grpc

from tests.support.calls import status_of
from tests.support.databases import TestDatabase
from tests.support.services import running, settings_for
from tests.support.tenants import Stub, failure, request, update

pytestmark = pytest.mark.req("S1")

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


class Catalogue(prices_pb2_grpc.PricesServiceServicer):
    """A fake of the publisher with `plans` and their currencies. While `away`, it does not answer."""

    def __init__(self) -> None:
        self.plans = {"gold": "USD", "silver": "USD", "euro": "EUR"}
        self.away = False

    async def ListPrices(
        self, request: prices_pb2.ListPricesRequest, context: aio.ServicerContext[Any, Any]
    ) -> prices_pb2.ListPricesResponse:
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        price = prices_pb2.Price(plan=request.plan, meter="calls", version=1)
        price.body.update({"currency": self.plans.get(request.plan)})
        return prices_pb2.ListPricesResponse(prices=[price] if request.plan in self.plans else [])


@pytest.fixture
async def catalogue() -> AsyncIterator[tuple[Catalogue, str]]:
    server, scripted = aio.server(), Catalogue()  # type: ignore[abstract]
    prices_pb2_grpc.add_PricesServiceServicer_to_server(scripted, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield scripted, f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def tenants(
    database: TestDatabase, broker: NatsServer, clock: ManualClock, catalogue: tuple[Catalogue, str]
) -> AsyncIterator[Stub]:
    values = settings_for("identity", database, broker) | {"publisher_address": catalogue[1]}
    async with running(Identity(IdentitySettings.model_validate(values), clock)) as channel:
        yield tenants_pb2_grpc.TenantsServiceStub(channel)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    error = await failure(call)
    info = error_details_pb2.ErrorInfo()
    assert any(packed.Unpack(info) for packed in status_of(error).details)
    return error.code(), info.reason


async def test_plan_without_prices_is_refused(tenants: Stub) -> None:
    for plan in ("golden", "GOLD"):
        assert await refusal(tenants.OnboardTenant(request(plan=plan))) == (PRECONDITION, "PLAN_UNKNOWN")
    await tenants.OnboardTenant(request())
    assert await refusal(update(tenants, plan="golden")) == (PRECONDITION, "PLAN_UNKNOWN")
    assert (await update(tenants, plan="silver")).plan == "silver"


async def test_plan_in_another_currency_is_refused(tenants: Stub) -> None:
    assert await refusal(tenants.OnboardTenant(request(plan="euro"))) == (PRECONDITION, "CURRENCY_DIFFERS")
    await tenants.OnboardTenant(request())
    assert await refusal(update(tenants, plan="euro")) == (PRECONDITION, "CURRENCY_DIFFERS")


async def test_tenant_may_have_no_plan(tenants: Stub) -> None:
    assert (await tenants.OnboardTenant(request(plan=""))).tenant.plan == ""
    assert (await update(tenants, plan="gold")).plan == "gold"
    assert (await update(tenants, plan="")).plan == ""


@pytest.mark.parametrize("plan", ["gold ", " gold", "go ld", "-gold", "x" * 65])
async def test_malformed_plan_name_is_refused(tenants: Stub, plan: str) -> None:
    error = await failure(tenants.OnboardTenant(request(plan=plan)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_only_plan_changes_need_the_publisher(tenants: Stub, catalogue: tuple[Catalogue, str]) -> None:
    first = (await tenants.OnboardTenant(request())).tenant
    catalogue[0].away = True
    unavailable = grpc.StatusCode.UNAVAILABLE
    assert (await failure(tenants.OnboardTenant(request("other")))).code() == unavailable
    assert (await failure(update(tenants, plan="silver"))).code() == unavailable
    assert (await tenants.OnboardTenant(request())).tenant == first
    assert (await update(tenants, plan="gold", display_name="Acme")).display_name == "Acme"
    listed = await tenants.ListTenants(tenants_pb2.ListTenantsRequest())
    assert [tenant.plan for tenant in listed.tenants] == ["gold"]
