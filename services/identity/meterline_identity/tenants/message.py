"""The messages that identity publishes."""

from __future__ import annotations

from meterline.bus.subjects import TENANTS_CHANGED
from meterline.clock import to_datetime
from meterline.transactions.unit_of_work import Transaction
from meterline_protos.events.v1 import events_pb2

from meterline_identity.tenants.rules.tenants import Tenant


def emit_changed(transaction: Transaction, tenant: Tenant) -> None:
    """Publishes the tenant's whole state, so that each message is complete by itself."""
    fact = events_pb2.TenantChanged(
        tenant_id=tenant.tenant_id,
        slug=tenant.slug,
        version=tenant.version,
        time_zone=tenant.time_zone,
        currency=tenant.currency,
        plan=tenant.plan,
        external_customer_id=tenant.external_customer_id,
        external_subscription_id=tenant.external_subscription_id,
        active=tenant.active,
        close_lead_seconds=tenant.close_lead_seconds,
        billed_from=tenant.billed_from.isoformat() if tenant.billed_from else "",
        billing_provider=tenant.billing_provider,
    )
    fact.changed_at.FromDatetime(to_datetime(tenant.updated_at_us))
    transaction.emit(TENANTS_CHANGED.subject, fact)
