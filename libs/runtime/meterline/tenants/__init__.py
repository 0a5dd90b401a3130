"""The replica of identity's tenants that every other service keeps, with its table."""

from meterline.tenants.replica import Tenant, TenantReplica

__all__ = ["Tenant", "TenantReplica"]
