"""A new tenant is stored concurrently by messages and by lookups of calls, on all replicas."""

from __future__ import annotations

import asyncio

import pytest
from meterline.db.pool import Database
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_protos.events.v1 import events_pb2

from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("T4.2")


def fact(number: int, version: int) -> events_pb2.TenantChanged:
    changed = events_pb2.TenantChanged(
        tenant_id=number, slug=f"tenant-{number}", version=version, time_zone="UTC", currency="USD"
    )
    changed.changed_at.GetCurrentTime()
    return changed


async def test_concurrent_inserts_of_new_tenant_keep_newest_version(database: TestDatabase) -> None:
    opened = Database(database.app_dsn("ingest"), size=8)
    await opened.start()
    try:
        replica, unit_of_work = TenantReplica(opened), UnitOfWork(opened, lambda: None)

        async def put(number: int, version: int) -> None:
            async with unit_of_work.begin() as transaction:
                await replica.apply(transaction, fact(number, version))
                await transaction.commit()

        for number in range(1, 101):
            await asyncio.gather(*(put(number, version) for version in (1, 3, 2, 1, 3, 2, 1, 3)))
        assert {tenant.version for tenant in await replica.all()} == {3}
    finally:
        await opened.stop()
