"""Upkeep of the quarantine: counts its entries, and deletes old ones."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from meterline.tasks import every
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import QUARANTINE_EXPIRED, SERVICE
from meterline_ingest.capture.rules.rejected import Held
from meterline_ingest.capture.store import rejected
from meterline_ingest.quarantine import store
from meterline_ingest.quarantine.store import QuarantineCounts

log = logger()

SETTLED_FOR: Final = timedelta(days=30)
SECONDS: Final = 60.0
# Entries a transaction, and transactions a run.
PAGE: Final = 1_000
PAGES: Final = 100
# Settled entries are deleted early when a tenant uses more than this part of its bytes.
FULL: Final = 0.75


class QuarantineUpkeep:
    """Replicas may run it concurrently. `start` and `stop` may be called twice."""

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        counts: QuarantineCounts,
        *,
        keep_waiting: timedelta | None,
        most: Held,
    ) -> None:
        """
        keep_waiting: how long an entry may wait; None: for ever
        most: what a tenant may keep
        """
        self._unit_of_work = unit_of_work
        self._counts = counts
        self._keep_waiting = keep_waiting
        self._most = most
        self._loop = every(SECONDS, "quarantine-upkeep", self.run)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def run(self) -> None:
        for _ in range(PAGES):
            if await self._counts.forget_settled(SETTLED_FOR, PAGE) < PAGE:
                break
        if self._keep_waiting is not None:
            for tenant_id in await self._counts.tenants():
                await self._expire(tenant_id, self._keep_waiting)
        await self._make_room()
        metrics.QUARANTINE_WAITING.set(await self._counts.waiting())
        fullest = await self._counts.most()
        metrics.QUOTA_FULLEST.labels("quarantine_events").set(_part(fullest.waiting, self._most.waiting))
        metrics.QUOTA_FULLEST.labels("quarantine_bytes").set(_part(fullest.bytes, self._most.bytes))

    async def _make_room(self) -> None:
        """Deletes settled entries early where little room is left, so that newly rejected events fit."""
        enough = int(self._most.bytes * FULL)
        for tenant_id, size in await self._counts.larger_than(enough):
            for _ in range(PAGES):
                async with self._unit_of_work.begin([tenant_id]) as transaction:
                    excess = size - enough
                    gone = await store.forget_oldest(transaction.connection, tenant_id, excess, PAGE)
                    held = await rejected.held(transaction.connection, [tenant_id])
                    size = held.get(tenant_id, Held()).bytes
                    await transaction.commit()
                if not gone or size <= enough:
                    break

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
            count = await store.forget_waiting(transaction.connection, tenant_id, age, PAGE)
            if count:
                await audit_store.record(
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


def _part(held: int, most: int) -> float:
    """The used part of what may be held; 1 if nothing may be held."""
    return held / most if most else 1.0
