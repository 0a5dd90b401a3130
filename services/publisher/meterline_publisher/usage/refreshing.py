"""Bringing the replica of usage to what aggregate knows now, before anything is made of it that lasts."""

from __future__ import annotations

from collections.abc import Sequence, Set

from meterline.calendar import Period
from meterline.tenants import Tenant
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_publisher.prices.rules.rule_sets import Rule
from meterline_publisher.usage.freshness import Freshness
from meterline_publisher.usage.replica import UsageWindows


class Refreshing:
    """What `freshness` answers is kept by `usage`, in a transaction of its own: what was learnt stays known,
    whatever becomes of the call that asked."""

    def __init__(self, unit_of_work: UnitOfWork, freshness: Freshness, usage: UsageWindows) -> None:
        self._unit_of_work = unit_of_work
        self._freshness = freshness
        self._usage = usage

    async def refresh(self, tenant: Tenant, period: Period, rules: Sequence[Rule]) -> Set[str]:
        """Pulls the usage of these rules' meters; answers which of the meters do not exist. Raises as
        `Freshness.pull`."""
        pulled = await self._freshness.pull(tenant, period, rules)
        if pulled.windows:
            async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
                await self._usage.store(tx.connection, pulled.windows)
                await tx.commit()
        return pulled.unknown
