"""Tenants as identity tells of them, and what must be true of one before it can be billed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from meterline.calendar import Period, day_of
from meterline.consuming.delivery import Delivery
from meterline.db.pool import begin
from meterline.errors import FailedPreconditionError
from meterline.tenants import Tenant, TenantReplica
from meterline.transactions.unit_of_work import Transaction
from meterline_protos.events.v1 import events_pb2

from meterline_publisher.gaps.rules import GapReason, NotBillableError
from meterline_publisher.tenants import store
from meterline_publisher.tenants.store import PlanVersion


class TenantChanges:
    """Keeps the newest state of every tenant, and of all versions which plan they had."""

    def __init__(self, tenants: TenantReplica) -> None:
        self._tenants = tenants

    async def handle(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        """Applies `tenants.changed`. A version that comes late changes nothing but the history of plans.
        Raises Poison for a message that is no such fact; it names the message."""
        await self._tenants.handle(transaction, deliveries)
        facts = [events_pb2.TenantChanged.FromString(delivery.data) for delivery in deliveries]
        await begin(transaction.connection, {fact.tenant_id for fact in facts})
        await store.insert(
            transaction.connection,
            [
                PlanVersion(fact.tenant_id, fact.version, fact.plan, fact.changed_at.ToDatetime(tzinfo=UTC))
                for fact in facts
            ],
        )


def require_customer(tenant: Tenant) -> None:
    """Raises NotBillableError for a tenant that the billing provider does not know."""
    if not tenant.external_customer_id:
        raise NotBillableError(
            GapReason.NO_CUSTOMER, f"tenant {tenant.slug}", "has no customer at the billing provider"
        )


def require_billed(tenant: Tenant, period: Period) -> None:
    """Raises FailedPreconditionError for a period that ends before the first day that is billed, or as it
    begins: there is nothing to miss. The period that this day lies in is billed as a whole. The SQL function
    `is_billed` says the same."""
    first = tenant.billed_from
    if first is not None and day_of(period.end, tenant.zone) <= first:
        raise FailedPreconditionError(
            f"tenant {tenant.slug}", f"is billed from {first.isoformat()} on", "NOT_BILLED_YET"
        )
