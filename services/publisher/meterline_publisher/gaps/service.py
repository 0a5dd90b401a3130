"""Stores billing gaps when a period cannot be rated, lists them, and counts them for alerts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from meterline.calendar import Period
from meterline.clock import Clock, to_datetime
from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.tenants import Tenant, TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_publisher.gaps import store
from meterline_publisher.gaps.rules import NOTES, OF_RATING, Gap, GapReason, Place, StoredGap

log = logger()


class Gaps:
    """Reads use `database`, changes use `unit_of_work`."""

    def __init__(
        self, database: Database, unit_of_work: UnitOfWork, tenants: TenantReplica, clock: Clock
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._clock = clock

    async def note(self, tenant: Tenant, period: Period, found: Sequence[Gap]) -> None:
        """Stores why a period could not be rated, replacing earlier reasons. Uses its own transaction, since
        that of the rating is rolled back."""
        now = to_datetime(self._clock.now_us())
        async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
            new = await store.replace(tx.connection, tenant.tenant_id, period, found, OF_RATING, now)
            await tx.commit()
        tell(tenant, period.start, new)

    async def page(self, slug: str, after: Place, limit: int) -> list[StoredGap]:
        """At most `limit` gaps after `after`, of all tenants when `slug` is empty. Raises NotFoundError."""
        tenant_id = (await self._tenants.get(slug)).tenant_id if slug else None
        scope = ALL_TENANTS if tenant_id is None else [tenant_id]
        async with self._database.connection(scope) as connection:
            return await store.page(connection, tenant_id, after, limit)

    async def count(self) -> None:
        """Updates the metric for every reason; 0 where there is no gap."""
        async with self._database.connection(ALL_TENANTS) as connection:
            counted = await store.count_by_reason(connection)
        for reason in GapReason:
            metrics.BILLING_GAPS.labels(reason.value).set(counted.get(reason.value, 0))


def tell(tenant: Tenant, period_start: datetime, new: Iterable[Gap]) -> None:
    """Logs each new gap, once."""
    for gap in new:
        # A provider that a tenant chose and that is not there may be misspelt.
        chosen = gap.reason is GapReason.NO_BILLING_PROVIDER and tenant.billing_provider
        write = log.info if gap.reason in NOTES and not chosen else log.warning
        write(
            "billing.gap",
            tenant=tenant.slug,
            period_start=period_start.isoformat(),
            reason=gap.reason.value,
            meter=gap.meter,
            detail=gap.detail,
        )
