"""Legal holds: placed, released, listed; and keys that are not destroyed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import pytest
from grpc import aio
from meterline_protos.ingest.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
    retention_pb2,
)

from tests.support.retention import Store

pytestmark = pytest.mark.req("S7")


async def actions(store: Store, tenant_id: str = "acme") -> list[tuple[str, str, str]]:
    audit = audit_pb2_grpc.AuditServiceStub(store.ingest.channel)
    answer = await audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(tenant_id=tenant_id))
    return [(entry.action, entry.subject, entry.principal) for entry in answer.entries]


async def listed(store: Store, *, released: bool = False) -> Sequence[retention_pb2.LegalHold]:
    request = retention_pb2.ListLegalHoldsRequest(tenant_id="acme", released=released)
    return list((await store.holds.ListLegalHolds(request)).legal_holds)


async def test_hold_can_be_placed_released_and_placed_again(store: Store) -> None:
    first = await store.hold("acme")
    assert (first.name, first.reason, first.requested_by) == ("matter-17", "a court asks", "ann")
    assert await store.hold("acme") == first, "a hold in force is not changed"
    await store.hold("acme", "audit")
    assert [hold.name for hold in await listed(store)] == ["audit", "matter-17"]
    ended = await store.release("acme")
    assert ended.HasField("released_at")
    assert [hold.name for hold in await listed(store)] == ["audit"]
    assert list(await listed(store, released=True))[1] == ended
    with pytest.raises(aio.AioRpcError) as caught:
        await store.release("acme")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    again = await store.hold("acme")
    assert again.placed_at.ToDatetime() > first.placed_at.ToDatetime()
    assert await actions(store) == [
        ("legal_hold.placed", "legal hold matter-17", "ann"),
        ("legal_hold.released", "legal hold matter-17", "bob"),
        ("legal_hold.placed", "legal hold audit", "ann"),
        ("legal_hold.placed", "legal hold matter-17", "ann"),
    ]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"tenant_id": "nobody"}, grpc.StatusCode.NOT_FOUND),
        ({"name": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"name": "a b"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"reason": " "}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"requested_by": ""}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_hold_needs_tenant_name_requester_and_reason(
    store: Store, changed: dict[str, str], code: grpc.StatusCode
) -> None:
    usual = {"tenant_id": "acme", "name": "a", "requested_by": "ann", "reason": "why"}
    with pytest.raises(aio.AioRpcError) as caught:
        await store.holds.PutLegalHold(retention_pb2.PutLegalHoldRequest(**usual | changed))
    assert caught.value.code() is code


@pytest.mark.req("T4.3")
async def test_keys_are_not_destroyed_while_a_hold_is_in_force(store: Store) -> None:
    privacy = privacy_pb2_grpc.PrivacyServiceStub(store.ingest.channel)
    request = privacy_pb2.ShredTenantRequest(tenant_id="acme", requested_by="ann", reason="they left")
    await store.hold("bolt")
    await store.hold("acme")
    with pytest.raises(aio.AioRpcError, match="legal hold matter-17") as caught:
        await privacy.ShredTenant(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await store.release("acme")
    await privacy.ShredTenant(request)
