"""A tenant's provider in the replica while identity runs an earlier release, also after a rollback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from meterline.db.pool import Database
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_protos.events.v1 import events_pb2

from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("S8", "K3")

# The statement of the last release without the field.
OLD_UPSERT = (
    "INSERT INTO publisher.tenants (tenant_id, slug, version, time_zone, currency, plan,"
    " external_customer_id, external_subscription_id, active, close_lead, changed_at, billed_from)"
    " VALUES (1, 'acme', 5, 'UTC', 'USD', '', '', '', true, '1 hour', now(), NULL)"
    " ON CONFLICT (tenant_id) DO UPDATE SET version = excluded.version"
    " WHERE tenants.version < excluded.version"
)


@pytest.fixture
async def database(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    return make_database("publisher")


@pytest.fixture
async def opened(database: TestDatabase) -> AsyncIterator[Database]:
    pool = Database(database.app_dsn("publisher"), size=2)
    await pool.start()
    yield pool
    await pool.stop()


def fact(version: int, provider: str | None) -> events_pb2.TenantChanged:
    changed = events_pb2.TenantChanged(
        tenant_id=1, slug="acme", version=version, time_zone="UTC", currency="USD", billing_provider=provider
    )
    changed.changed_at.GetCurrentTime()
    # Serialized as on the wire, because a field that is not set is read as empty.
    return events_pb2.TenantChanged.FromString(changed.SerializeToString())


@pytest.mark.parametrize(
    ("sent_providers", "stored"),
    [
        ([None], ""),
        ([""], ""),
        (["stripe"], "stripe"),
        (["stripe", None], "stripe"),
        (["stripe", None, None, ""], ""),
        ([None, "stripe"], "stripe"),
        (["stripe", "other"], "other"),
    ],
)
async def test_message_without_provider_field_keeps_stored_provider(
    opened: Database, sent_providers: list[str | None], stored: str
) -> None:
    replica, unit_of_work = TenantReplica(opened), UnitOfWork(opened, lambda: None)
    for version, provider in enumerate(sent_providers, 1):
        async with unit_of_work.begin() as transaction:
            await replica.apply(transaction, fact(version, provider))
            await transaction.commit()
    tenant = await replica.get("acme")
    assert (tenant.version, tenant.billing_provider) == (len(sent_providers), stored)


async def test_late_message_does_not_change_provider(opened: Database) -> None:
    replica, unit_of_work = TenantReplica(opened), UnitOfWork(opened, lambda: None)
    for version, provider in ((3, "stripe"), (2, "other"), (3, "other")):
        async with unit_of_work.begin() as transaction:
            await replica.apply(transaction, fact(version, provider))
            await transaction.commit()
    assert (await replica.get("acme")).billing_provider == "stripe"


async def test_previous_release_can_write_the_new_table(opened: Database, database: TestDatabase) -> None:
    replica, unit_of_work = TenantReplica(opened), UnitOfWork(opened, lambda: None)
    await database.change(OLD_UPSERT)
    assert (await replica.get("acme")).billing_provider == ""
    async with unit_of_work.begin() as transaction:
        await replica.apply(transaction, fact(6, "stripe"))
        await transaction.commit()
    await database.change(OLD_UPSERT.replace("'acme', 5", "'acme', 7"))
    assert await replica.all() == [await TenantReplica(opened).get("acme")]
    assert (await TenantReplica(opened).get("acme")).version == 7
    assert (await TenantReplica(opened).get("acme")).billing_provider == "stripe"
