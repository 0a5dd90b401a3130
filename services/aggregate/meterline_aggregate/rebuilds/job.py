"""Rebuilds months in the background, after retractions from slots without an inverse, or skipped events."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from meterline import backoff, tasks
from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS
from meterline.errors import AbortedError, UnavailableError
from meterline.ids import new_id
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.telemetry.tracing import tracer
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_aggregate.meters import store as meters_store
from meterline_aggregate.meters.rules.definitions import Meter
from meterline_aggregate.rebuilds import store
from meterline_aggregate.rebuilds.attempt import Outcome, Rebuild
from meterline_aggregate.rebuilds.raw_events import RawEvents
from meterline_aggregate.rebuilds.store import LEASE, Claim

log = logger()

_POLL_SECONDS: Final = 5.0
_PAUSE: Final = backoff.doubling(first=0.5, longest=60.0)


class Rebuilder:
    """A background task. Replicas may run it at the same time: each claims months that no other has claimed.

    `start` and `stop` may be called twice.
    """

    def __init__(self, database: Database, unit_of_work: UnitOfWork, raw: RawEvents) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._raw = raw
        self._loop = tasks.Loop("rebuilder", self._step, retry=backoff.constant(_POLL_SECONDS))

    def wake(self) -> None:
        """Starts the next step now: there is a month to rebuild."""
        self._loop.wake()

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def rebuild_due(self) -> int:
        """Rebuilds every due month; returns how many were completed. Raises UnavailableError."""
        done = 0
        while (claimed := await self._claim()) is not None:
            with tracer().start_as_current_span("rebuild month"):
                done += await self._try(claimed)
        async with self._database.connection(ALL_TENANTS) as connection:
            metrics.REBUILDS_PENDING.set(await store.count_pending(connection))
        return done

    async def _step(self) -> float:
        await self.rebuild_due()
        return _POLL_SECONDS

    async def _claim(self) -> Claim | None:
        async with self._unit_of_work.begin(tenants=ALL_TENANTS) as tx:
            claimed = await store.claim(tx.connection, new_id(), LEASE)
            await tx.commit()
        return claimed

    async def _try(self, claimed: Claim) -> bool:
        try:
            outcome = await self._rebuild(claimed)
        except AbortedError as error:
            log.warning("rebuild.lost", month=_name(claimed), error=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - logged below, and retried
            level = log.warning if isinstance(error, UnavailableError) else log.exception
            level("rebuild.failed", month=_name(claimed), attempt=claimed.attempts, error=str(error))
        else:
            if outcome is Outcome.DONE:
                log.info("rebuild.done", month=_name(claimed))
                return True
            log.warning("rebuild.waits", month=_name(claimed), attempt=claimed.attempts, outcome=outcome.name)
        await self._postpone(claimed)
        return False

    async def _rebuild(self, claimed: Claim) -> Outcome:
        async with self._database.connection() as connection:
            known = await meters_store.everything(connection)
        (meter,) = (
            meter for meter in known if isinstance(meter, Meter) and meter.meter_id == claimed.month.meter_id
        )
        return await Rebuild(self._unit_of_work, self._raw, meter, claimed).run()

    async def _postpone(self, claimed: Claim) -> None:
        pause = timedelta(seconds=_PAUSE(claimed.attempts))
        async with self._unit_of_work.begin(tenants=[claimed.month.tenant_id]) as tx:
            await store.postpone(tx.connection, claimed, pause)
            await tx.commit()


def _name(claimed: Claim) -> str:
    month = claimed.month
    return f"{month.slug}/{month.meter_id}/{month.start_us // 1_000_000}"
