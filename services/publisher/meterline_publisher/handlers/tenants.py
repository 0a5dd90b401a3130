"""What must be true of a tenant before it can be billed."""

from __future__ import annotations

from meterline.errors import FailedPreconditionError
from meterline.tenants import Tenant

from meterline_publisher.domain.periods import Period


def require_customer(tenant: Tenant) -> None:
    """Raises FailedPreconditionError for a tenant that the billing provider does not know."""
    if not tenant.external_customer_id:
        raise FailedPreconditionError(f"tenant {tenant.slug}", "has no customer at the billing provider")


def require_billed(tenant: Tenant, period: Period) -> None:
    """Raises FailedPreconditionError for a period that ends before the first day that is billed, or as it
    begins. The period that this day lies in is billed as a whole."""
    first = tenant.billed_from
    if first is not None and period.end.astimezone(tenant.zone).date() <= first:
        raise FailedPreconditionError(
            f"tenant {tenant.slug}", f"is billed from {first.isoformat()} on", "NOT_BILLED_YET"
        )
