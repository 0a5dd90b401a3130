"""The billing provider of a tenant."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2
from meterline.bus.connection import Bus

from tests.support.databases import TestDatabase
from tests.support.tenants import Stub, detail, facts, failure, get, onboard, request, update

pytestmark = pytest.mark.req("S1", "S8")


async def test_provider_is_stored_and_published(tenants: Stub, bus: Bus) -> None:
    assert (await onboard(tenants)).billing_provider == ""
    assert (await onboard(tenants, "other", billing_provider="adyen")).billing_provider == "adyen"
    changed = await update(tenants, billing_provider="stripe")
    assert (changed.billing_provider, changed.version) == ("stripe", 2)
    assert (await get(tenants)) == changed
    assert (await update(tenants, display_name="Acme")).billing_provider == "stripe"
    assert (await update(tenants, billing_provider="stripe")).version == 3
    assert (await update(tenants, billing_provider="")).billing_provider == ""
    published = {(fact.slug, fact.version): fact for fact in await facts(bus, 5)}
    assert all(fact.HasField("billing_provider") for fact in published.values())
    assert {key: fact.billing_provider for key, fact in published.items()} == {
        ("acme", 1): "",
        ("acme", 2): "stripe",
        ("acme", 3): "stripe",
        ("acme", 4): "",
        ("other", 1): "adyen",
    }


@pytest.mark.parametrize("name", ["Stripe", "-a", "a-", "a b", "ä", "x" * 64, "a.b"])
async def test_malformed_provider_name_is_refused(tenants: Stub, name: str) -> None:
    await onboard(tenants, billing_provider="x" * 63)
    calls = (
        tenants.OnboardTenant(request("new", billing_provider=name)),
        update(tenants, billing_provider=name),
    )
    for call in calls:
        error = await failure(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert detail(error, error_details_pb2.ErrorInfo).reason == "NAME_INVALID"
        assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == "billing_provider"
    assert (await get(tenants)).billing_provider == "x" * 63


async def test_repeated_request_is_recognised_with_its_provider(
    tenants: Stub, database: TestDatabase
) -> None:
    await onboard(tenants, billing_provider="stripe")
    await update(tenants, billing_provider="adyen")
    answer = await tenants.OnboardTenant(request(billing_provider="stripe"))
    assert (answer.created, answer.tenant.billing_provider) == (False, "adyen")
    error = await failure(tenants.OnboardTenant(request()))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS
    # The stored request of an older tenant lacks the field, and the repeated request is still recognised.
    await onboard(tenants, "old")
    stored = database.read(
        "identity", "SELECT onboarding ? 'billing_provider' FROM tenant_accounts ORDER BY tenant_id"
    )
    assert stored == [(True,), (False,)]
    assert not (await tenants.OnboardTenant(request("old"))).created
