"""What quarantine needs by itself: to be counted, and to forget what is old."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from meterline.app import Periodic
from meterline.db.unit_of_work import UnitOfWork
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger

from meterline_ingest.domain.audit import QUARANTINE_EXPIRED, SERVICE
from meterline_ingest.repository import audit
from meterline_ingest.repository import quarantine as repository
from meterline_ingest.repository.quarantine import QuarantineCounts

log = logger()

SETTLED_FOR: Final = timedelta(days=30)
SECONDS: Final = 60.0
# Entries a transaction, and transactions a run.
PAGE: Final = 1_000
PAGES: Final = 100


class QuarantineUpkeep:
    """Replicas may do this at the same time. `start` and `stop` may be called twice."""

    def __init__(
        self, unit_of_work: UnitOfWork, counts: QuarantineCounts, *, keep_waiting: timedelta | None
    ) -> None:
        """keep_waiting: how long an entry may wait; None: for ever"""
        self._unit_of_work = unit_of_work
        self._counts = counts
        self._keep_waiting = keep_waiting
        self._periodic = Periodic("quarantine-upkeep", SECONDS, self.run)

    async def start(self) -> None:
        await self._periodic.start()

    async def stop(self) -> None:
        await self._periodic.stop()

    async def run(self) -> None:
        for _ in range(PAGES):
            if await self._counts.forget_settled(SETTLED_FOR, PAGE) < PAGE:
                break
        if self._keep_waiting is not None:
            for tenant_id in await self._counts.tenants():
                await self._expire(tenant_id, self._keep_waiting)
        metrics.QUARANTINE_WAITING.set(await self._counts.waiting())

    async def _expire(self, tenant_id: int, age: timedelta) -> None:
        expired = 0
        for _ in range(PAGES):
            count = await self._expire_page(tenant_id, age)
            expired += count
            if count < PAGE:
                break
        if expired:
            metrics.QUARANTINE_EXPIRED.inc(expired)
            log.warning("quarantine.expired", tenant_id=tenant_id, events=expired)

    async def _expire_page(self, tenant_id: int, age: timedelta) -> int:
        async with self._unit_of_work.begin([tenant_id]) as transaction:
            count = await repository.forget_waiting(transaction.connection, tenant_id, age, PAGE)
            if count:
                await audit.record(
                    transaction.connection,
                    tenant_id,
                    action=QUARANTINE_EXPIRED,
                    subject=f"tenant {tenant_id}",
                    principal=SERVICE,
                    reason=f"waited for more than {age / timedelta(days=1):g} days",
                    details={"events": count},
                )
                await transaction.commit()
        return count
