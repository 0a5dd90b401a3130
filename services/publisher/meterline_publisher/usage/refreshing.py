"""Updates the replica of usage from aggregate before usage is rated or compared."""

from __future__ import annotations

from collections.abc import Sequence, Set

from meterline.calendar import Period
from meterline.tenants import Tenant
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_publisher.prices.rules.rule_sets import Rule
from meterline_publisher.usage.freshness import Freshness
from meterline_publisher.usage.replica import UsageWindows


class Refreshing:
    """Stores the answers of `freshness` through `usage`, in a separate transaction, so that they are kept
    even if the caller fails."""

    def __init__(self, unit_of_work: UnitOfWork, freshness: Freshness, usage: UsageWindows) -> None:
        self._unit_of_work = unit_of_work
        self._freshness = freshness
        self._usage = usage

    async def refresh(self, tenant: Tenant, period: Period, rules: Sequence[Rule]) -> Set[str]:
        """Reads the usage of these rules' meters; returns which of the meters do not exist. Raises as
        `Freshness.pull`."""
        pulled = await self._freshness.pull(tenant, period, rules)
        if pulled.windows:
            async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
                await self._usage.store(tx.connection, pulled.windows)
                await tx.commit()
        return pulled.unknown
