"""Lists, rotates and destroys keys of tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from meterline.db.pool import Connection
from meterline.errors import FailedPreconditionError
from meterline.tenants import TenantReplica

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import TENANT_SHREDDED, ChangeRequest
from meterline_ingest.keys.rotation import KeyStore, rotate
from meterline_ingest.keys.rules import FINGERPRINT_KEY, FIRST_KEY, KeyRecord, Purpose, WrappedKey


class Holds(Protocol):
    """Something that forbids the destruction of a tenant's data.

    It is queried while the tenant's keys are locked. Placing a hold takes `DataKeys.lock` as well, so that a
    hold is either placed after the destruction, or seen by it.
    """

    async def placed(self, connection: Connection, tenant_id: int) -> Sequence[str]:
        """Names of the holds that are in force."""


async def rotate_tenant_key(
    store: KeyStore, tenants: TenantReplica, slug: str, from_key_id: int, change: ChangeRequest
) -> list[KeyRecord]:
    """Returns all keys after the rotation. Raises NotFoundError, ShreddedError."""
    tenant = await tenants.get(slug)
    await rotate(store, tenant.tenant_id, from_key_id, change)
    return await store.keys.records(tenant.tenant_id)


async def list_data_keys(store: KeyStore, tenants: TenantReplica, slug: str) -> list[KeyRecord]:
    """By number; empty before anything was sealed. Raises NotFoundError."""
    return await store.keys.records((await tenants.get(slug)).tenant_id)


async def shred_tenant(
    store: KeyStore, tenants: TenantReplica, holds: Sequence[Holds], slug: str, change: ChangeRequest
) -> int:
    """Destroys a tenant's keys for good; returns how many. Shredding a tenant again changes nothing.

    Raises NotFoundError, FailedPreconditionError while a hold is in force.
    """
    tenant_id = (await tenants.get(slug)).tenant_id
    async with store.unit_of_work.begin([tenant_id]) as transaction:
        connection = transaction.connection
        await store.keys.lock(connection, tenant_id)
        for source in holds:
            if placed := await source.placed(connection, tenant_id):
                raise FailedPreconditionError(f"tenant {slug}", f"held by {', '.join(placed)}")
        there = (await store.keys.load([tenant_id], connection)).get(tenant_id, [])
        if there and all(key.wrapped is None for key in there):
            return 0
        # A tenant that never had keys must not get any later either.
        await store.keys.add(connection, _tombstones(tenant_id))
        destroyed = await store.keys.shred(connection, tenant_id)
        await audit_store.record(
            connection,
            tenant_id,
            action=TENANT_SHREDDED,
            subject=f"tenant {slug}",
            principal=change.requested_by,
            reason=change.reason,
            details={"keys": destroyed},
        )
        transaction.after_commit(lambda: store.vault.forget(tenant_id))
        await transaction.commit()
    return destroyed


def _tombstones(tenant_id: int) -> list[WrappedKey]:
    """Shredded keys under the numbers that first keys would take."""
    names = ((FINGERPRINT_KEY, Purpose.FINGERPRINTS), (FIRST_KEY, Purpose.SEALING))
    return [WrappedKey(tenant_id, key_id, purpose, None, "", settled=True) for key_id, purpose in names]
