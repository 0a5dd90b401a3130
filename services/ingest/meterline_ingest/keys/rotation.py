"""Rotates tenants' keys, on request and for upkeep."""

from __future__ import annotations

from dataclasses import dataclass

from meterline.errors import AbortedError, ShreddedError
from meterline.transactions.unit_of_work import Transaction, UnitOfWork

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import KEY_ROTATED, ChangeRequest
from meterline_ingest.keys.rules import Purpose, WrappedKey
from meterline_ingest.keys.store import DataKeys
from meterline_ingest.keys.vault import Vault


@dataclass(frozen=True, slots=True)
class KeyStore:
    """What functions that change keys need."""

    unit_of_work: UnitOfWork
    keys: DataKeys
    vault: Vault


async def rotate(store: KeyStore, tenant_id: int, from_key_id: int, change: ChangeRequest) -> None:
    """Makes a new current key; the previous one opens what it sealed. A tenant without keys gets its first.

    from_key_id: rotate only if this one is current, so that a repeated request rotates once; 0: in any case

    Raises ShreddedError when the tenant's keys are destroyed, AbortedError when its first are made right now.
    """
    async with store.unit_of_work.begin([tenant_id]) as transaction:
        await store.keys.lock(transaction.connection, tenant_id)
        there = (await store.keys.load([tenant_id], transaction.connection)).get(tenant_id, [])
        current = _current(there)
        if from_key_id not in (0, current):
            return
        await _replace(store, transaction, tenant_id, current)
        await audit_store.record(
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
    """The greatest key number; 0 when there is no key."""
    if keys and all(key.wrapped is None for key in keys):
        raise ShreddedError("sensitive data", "the tenant's keys were destroyed")
    return max((key.key_id for key in keys), default=0)


async def _replace(store: KeyStore, transaction: Transaction, tenant_id: int, current: int) -> None:
    if current:
        await store.keys.retire(transaction.connection, tenant_id, current)
        new = [store.vault.new_key(tenant_id, current + 1, Purpose.SEALING)]
    else:
        new = store.vault.first_keys(tenant_id)
    if await store.keys.add(transaction.connection, new) != len(new):
        # First keys are made without the lock, when a value is sealed for the first time.
        raise AbortedError("the tenant's keys were made meanwhile")
