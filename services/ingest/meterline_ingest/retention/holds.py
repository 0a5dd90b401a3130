"""Places, releases and lists legal holds."""

from __future__ import annotations

from dataclasses import dataclass

from meterline.errors import NotFoundError
from meterline.names import check_name
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import Transaction, UnitOfWork

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import LEGAL_HOLD_PLACED, LEGAL_HOLD_RELEASED, ChangeRequest
from meterline_ingest.keys.store import DataKeys
from meterline_ingest.retention.rules import LegalHold
from meterline_ingest.retention.store import LegalHolds


@dataclass(frozen=True, slots=True)
class Holding:
    """The handlers of legal holds, and what they need."""

    unit_of_work: UnitOfWork
    tenants: TenantReplica
    keys: DataKeys
    holds: LegalHolds

    async def put(self, slug: str, name: str, change: ChangeRequest) -> LegalHold:
        """Returns the hold that is in force. Raises InvalidArgumentError, NotFoundError."""
        check_name("name", name)
        tenant_id = (await self.tenants.get(slug)).tenant_id
        async with self.unit_of_work.begin([tenant_id]) as transaction:
            # Destroying the keys takes this lock too, so that one transaction sees the other.
            await self.keys.lock(transaction.connection, tenant_id)
            hold = await self.holds.put(transaction.connection, tenant_id, name, change)
            if hold is None:
                there = await self.holds.all(transaction.connection, tenant_id)
                return next(each for each in there if each.name == name)
            await _record(transaction, tenant_id, LEGAL_HOLD_PLACED, name, change)
            await transaction.commit()
        return hold

    async def release(self, slug: str, name: str, change: ChangeRequest) -> LegalHold:
        """Raises NotFoundError."""
        tenant_id = (await self.tenants.get(slug)).tenant_id
        async with self.unit_of_work.begin([tenant_id]) as transaction:
            hold = await self.holds.release(transaction.connection, tenant_id, name)
            if hold is None:
                raise NotFoundError("legal hold in force", name)
            await _record(transaction, tenant_id, LEGAL_HOLD_RELEASED, name, change)
            await transaction.commit()
        return hold

    async def list(self, slug: str, *, released: bool) -> list[LegalHold]:
        """Raises NotFoundError."""
        tenant_id = (await self.tenants.get(slug)).tenant_id
        async with self.unit_of_work.begin([tenant_id]) as transaction:
            return await self.holds.all(transaction.connection, tenant_id, released=released)


async def _record(
    transaction: Transaction, tenant_id: int, action: str, name: str, change: ChangeRequest
) -> None:
    await audit_store.record(
        transaction.connection,
        tenant_id,
        action=action,
        subject=f"legal hold {name}",
        principal=change.requested_by,
        reason=change.reason,
        details={},
    )
