"""What must be true of a tenant before it can be billed."""

from __future__ import annotations

from meterline.errors import FailedPreconditionError
from meterline.tenants import Tenant


def require_customer(tenant: Tenant) -> None:
    """Raises FailedPreconditionError for a tenant that the billing provider does not know."""
    if not tenant.external_customer_id:
        raise FailedPreconditionError(f"tenant {tenant.slug}", "has no customer at the billing provider")
