"""The replica of tenants, and the preconditions for billing one."""

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
    """Stores the newest state of every tenant, and the plan from every version."""

    def __init__(self, tenants: TenantReplica) -> None:
        self._tenants = tenants

    async def handle(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        """Applies `tenants.changed`. An old version that arrives late is only added to the history of plans.
        Raises Poison for a message of another kind, naming the message."""
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
    """Raises NotBillableError for a tenant without a customer at the billing provider."""
    if not tenant.external_customer_id:
        raise NotBillableError(
            GapReason.NO_CUSTOMER, f"tenant {tenant.slug}", "has no customer at the billing provider"
        )


def require_billed(tenant: Tenant, period: Period) -> None:
    """Raises FailedPreconditionError for a period that ends by the start of the first billed day. The period
    that contains that day is billed as a whole. The SQL function `is_billed` has the same rule."""
    first = tenant.billed_from
    if first is not None and day_of(period.end, tenant.zone) <= first:
        raise FailedPreconditionError(
            f"tenant {tenant.slug}", f"is billed from {first.isoformat()} on", "NOT_BILLED_YET"
        )
