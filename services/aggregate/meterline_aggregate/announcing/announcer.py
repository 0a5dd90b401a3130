"""Publishes changed month windows with their current values, so that one message per window is enough."""

from __future__ import annotations

from typing import Final

from meterline.db.scope import ALL_TENANTS
from meterline.telemetry.tracing import tracer
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_aggregate.announcing import message, store

# Windows per message.
LIMIT: Final = 500


class MonthAnnouncer:
    """Replicas may run this at the same time: each claims rows that no other replica has locked."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def announce(self) -> int:
        """Publishes all changed months; returns the number of windows. Writes nothing when nothing changed.

        Raises UnavailableError, after the others are published, when a row stays locked for over 2 seconds.
        """
        announced = 0
        # The first pass skips locked rows, so that a lock on one month delays no other.
        for busy in (False, True):
            while count := await self._announce_some(busy=busy):
                announced += count
                if count < LIMIT:
                    break
        return announced

    async def _announce_some(self, *, busy: bool) -> int:
        async with self._unit_of_work.begin(tenants=ALL_TENANTS) as tx:
            claimed = await store.claim(tx.connection, LIMIT, busy=busy)
            if claimed:
                with tracer().start_as_current_span("announce months"):
                    message.emit_windows(tx, claimed)
                await tx.commit()
        return len(claimed)
