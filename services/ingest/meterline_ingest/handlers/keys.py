"""Rotation of tenants' keys, whoever asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from meterline.db.unit_of_work import Transaction, UnitOfWork
from meterline.errors import ShreddedError

from meterline_ingest.domain.audit import KEY_ROTATED, ChangeRequest
from meterline_ingest.domain.data_keys import Purpose, WrappedKey
from meterline_ingest.repository import audit
from meterline_ingest.repository.data_keys import DataKeys
from meterline_ingest.vault import Vault


@dataclass(frozen=True, slots=True)
class KeyStore:
    """What changes keys needs."""

    unit_of_work: UnitOfWork
    keys: DataKeys
    vault: Vault


async def rotate(store: KeyStore, tenant_id: int, from_key_id: int, change: ChangeRequest) -> None:
    """Makes a new current key; the one before opens what it sealed. A tenant without keys gets its first.

    from_key_id: rotate only if this one is current, so that who asks twice rotates once; 0: whichever is

    Raises ShreddedError when the tenant's keys are destroyed.
    """
    async with store.unit_of_work.begin([tenant_id]) as transaction:
        await store.keys.lock(transaction.connection, tenant_id)
        there = (await store.keys.load([tenant_id], transaction.connection)).get(tenant_id, [])
        current = _current(there)
        if from_key_id not in (0, current):
            return
        await _replace(store, transaction, tenant_id, current)
        await audit.record(
            transaction.connection,
            tenant_id,
            action=KEY_ROTATED,
            subject=f"key {current + 1}",
            principal=change.requested_by,
            reason=change.reason,
            details={"key_id": current + 1, "previous_key_id": current},
        )
        transaction.after_commit(lambda: store.vault.forget(tenant_id))
        await transaction.commit()


def _current(keys: list[WrappedKey]) -> int:
    """The greatest number; 0 when there is no key."""
    if keys and all(key.wrapped is None for key in keys):
        raise ShreddedError("sensitive data", "the tenant's keys were destroyed")
    return max((key.key_id for key in keys), default=0)


async def _replace(store: KeyStore, transaction: Transaction, tenant_id: int, current: int) -> None:
    if not current:
        await store.keys.add(transaction.connection, store.vault.first_keys(tenant_id))
        return
    await store.keys.retire(transaction.connection, tenant_id, current)
    new = store.vault.new_key(tenant_id, current + 1, Purpose.SEALING)
    await store.keys.add(transaction.connection, [new])
