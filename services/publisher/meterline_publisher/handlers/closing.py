"""Closing: usage is sent when its period is about to end, and again if more comes until it is final."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from meterline.clock import Clock, to_datetime
from meterline.db.pool import Database
from meterline.errors import MeterlineError
from meterline.telemetry.logging import logger
from meterline.tenants import TenantReplica

from meterline_publisher.domain.months import month_before, month_of
from meterline_publisher.domain.periods import Period
from meterline_publisher.handlers.publishing import Publishing
from meterline_publisher.repository import invoices

log = logger()

_AT_A_TIME: Final = 8
_PAGE: Final = 500


class Closing:
    """Looks for periods to close. Far from the end of any month this is one small query."""

    def __init__(
        self,
        database: Database,
        tenants: TenantReplica,
        publishing: Publishing,
        clock: Clock,
        *,
        grace_seconds: float,
    ) -> None:
        self._database = database
        self._tenants = tenants
        self._publishing = publishing
        self._clock = clock
        self._grace = timedelta(seconds=grace_seconds)

    async def close_due(self) -> int:
        """Rates every period that is due and not rated as it stands; returns how many it rated.

        A tenant that fails is logged, and tried again by the next look.
        """
        async with self._database.connection() as connection:
            schedules = await invoices.closing_schedules(connection)
        now = to_datetime(self._clock.now_us())
        closed = 0
        for zone, lead in schedules:
            for period in due_periods(now, ZoneInfo(zone), lead, self._grace):
                closed += await self._close((zone, lead), period)
        return closed

    async def _close(self, schedule: tuple[str, timedelta], period: Period) -> int:
        closed, after = 0, 0
        while True:
            async with self._database.connection() as connection:
                page = await invoices.to_close(connection, schedule, period, after, _PAGE)
            for start in range(0, len(page), _AT_A_TIME):
                some = page[start : start + _AT_A_TIME]
                closed += sum(await asyncio.gather(*(self._try(tenant_id, period) for tenant_id in some)))
            if len(page) < _PAGE:
                return closed
            after = page[-1]

    async def _try(self, tenant_id: int, period: Period) -> bool:
        tenant = await self._tenants.find_by_id(tenant_id)
        if tenant is None:
            return False
        try:
            await self._publishing.rate(tenant, period, retry_rejected=False)
        except MeterlineError as error:
            log.warning(
                "period.not_closed",
                tenant=tenant.slug,
                period_start=period.start.isoformat(),
                error=str(error),
            )
            return False
        return True


def due_periods(now: datetime, zone: ZoneInfo, lead: timedelta, grace: timedelta) -> Sequence[Period]:
    """The periods that have to be rated by now: the one that ends within `lead`, and the one before it
    for as long as its invoice may still be open."""
    current = month_of(now, zone)
    previous = month_before(current, zone)
    due = [previous] if now - previous.end < grace else []
    return [*due, current] if current.end - now <= lead else due
