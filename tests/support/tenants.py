"""Calls to TenantsService, and the facts that it publishes."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest
from google.protobuf.message import Message
from grpc import aio
from meterline.bus.connection import Bus
from meterline.bus.subjects import TENANTS_CHANGED
from meterline_protos.events.v1 import events_pb2
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc

from tests.support.calls import status_of
from tests.support.polling import eventually

Stub: TypeAlias = "tenants_pb2_grpc.TenantsServiceAsyncStub"


def request(slug: str = "acme", **changes: Any) -> tenants_pb2.OnboardTenantRequest:
    fields = {
        "tenant_id": slug,
        "display_name": "Acme, Inc.",
        "time_zone": "America/New_York",
        "currency": "USD",
        "plan": "gold",
        "external_customer_id": "cus_1" if slug == "acme" else f"cus_{slug}",
        "external_subscription_id": "sub_1",
        **changes,
    }
    return tenants_pb2.OnboardTenantRequest(**fields)


async def onboard(tenants: Stub, slug: str = "acme", **changes: Any) -> tenants_pb2.Tenant:
    return (await tenants.OnboardTenant(request(slug, **changes))).tenant


async def update(tenants: Stub, slug: str = "acme", **changes: Any) -> tenants_pb2.Tenant:
    return (await tenants.UpdateTenant(tenants_pb2.UpdateTenantRequest(tenant_id=slug, **changes))).tenant


async def get(tenants: Stub, slug: str = "acme") -> tenants_pb2.Tenant:
    return (await tenants.GetTenant(tenants_pb2.GetTenantRequest(tenant_id=slug))).tenant


async def facts(bus: Bus, count: int) -> list[events_pb2.TenantChanged]:
    """The first `count` published facts; checks that there are no others."""
    manager = bus.client.jsm()

    async def published() -> int:
        return (await manager.stream_info(TENANTS_CHANGED.stream)).state.last_seq

    await eventually(published, until=lambda seen: seen >= count)
    assert await published() == count
    messages = [await manager.get_msg(TENANTS_CHANGED.stream, seq) for seq in range(1, count + 1)]
    return [events_pb2.TenantChanged.FromString(message.data or b"") for message in messages]


async def failure(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


def detail(error: aio.AioRpcError, kind: type[Message]) -> Any:
    message = kind()
    assert any(packed.Unpack(message) for packed in status_of(error).details)
    return message


# --- onboarding
