"""The provider of a tenant in the replica, while identity is still of an earlier release or is so again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from meterline.db.pool import Database
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_protos.events.v1 import events_pb2

from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("S8", "K3")

# As the release before the field writes it.
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
    # As it travels, since a field that is not set is read as empty.
    return events_pb2.TenantChanged.FromString(changed.SerializeToString())


@pytest.mark.parametrize(
    ("told", "kept"),
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
async def test_a_message_without_the_field_keeps_what_is_known(
    opened: Database, told: list[str | None], kept: str
) -> None:
    replica, unit_of_work = TenantReplica(opened), UnitOfWork(opened, lambda: None)
    for version, provider in enumerate(told, 1):
        async with unit_of_work.begin() as transaction:
            await replica.apply(transaction, fact(version, provider))
            await transaction.commit()
    tenant = await replica.get("acme")
    assert (tenant.version, tenant.billing_provider) == (len(told), kept)


async def test_a_late_message_changes_no_provider(opened: Database) -> None:
    replica, unit_of_work = TenantReplica(opened), UnitOfWork(opened, lambda: None)
    for version, provider in ((3, "stripe"), (2, "other"), (3, "other")):
        async with unit_of_work.begin() as transaction:
            await replica.apply(transaction, fact(version, provider))
            await transaction.commit()
    assert (await replica.get("acme")).billing_provider == "stripe"


async def test_the_release_before_writes_the_new_table(opened: Database, database: TestDatabase) -> None:
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
