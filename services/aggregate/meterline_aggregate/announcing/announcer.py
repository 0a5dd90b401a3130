"""Month windows that changed are published, as absolute values, so that any one message is enough."""

from __future__ import annotations

from typing import Final

from meterline.db.scope import ALL_TENANTS
from meterline.telemetry.tracing import tracer
from meterline.transactions.unit_of_work import UnitOfWork

from meterline_aggregate.announcing import message, store

# Windows a message.
LIMIT: Final = 500


class MonthAnnouncer:
    """Replicas may do this at the same time: each takes what no other has."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def announce(self) -> int:
        """Publishes all that changed; returns how many windows. Writes nothing when nothing did.

        Raises UnavailableError, having published the rest, when a window is kept busy for seconds.
        """
        announced = 0
        # What is being changed at this moment is passed over at first, so that it holds up no other.
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
