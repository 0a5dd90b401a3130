"""The quotas of each tenant."""

from __future__ import annotations

from collections.abc import Collection

from meterline.tenants import TenantReplica

from meterline_ingest.dictionaries.rules import Quotas
from meterline_ingest.rate_limits.cache import LimitRegistry


class TenantQuotas:
    """Quotas of tenants, by their own limits, else their plans', else those of the service."""

    def __init__(self, replica: TenantReplica, limits: LimitRegistry, default: Quotas) -> None:
        self._replica = replica
        self._limits = limits
        self.default = default

    async def of(self, tenant_ids: Collection[int]) -> dict[int, Quotas]:
        """By number. Raises UnavailableError."""
        found = {}
        for tenant_id in tenant_ids:
            tenant = await self._replica.find_by_id(tenant_id)
            limits, _ = (await self._limits.current()).find(tenant_id, tenant.plan if tenant else "")
            found[tenant_id] = limits.quotas.or_else(self.default)
        return found
