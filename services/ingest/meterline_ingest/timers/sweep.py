"""Processes timers that are due, such as abandoned ones: runs when the next one is due, not before."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from meterline import backoff, tasks
from meterline.db.pool import Database
from meterline.db.scope import ALL_TENANTS
from meterline.errors import MeterlineError
from meterline.telemetry.logging import logger

from meterline_ingest.timers import store
from meterline_ingest.timers.service import Timers

log = logger()

_AT_ONCE: Final = 100
# The timers that a dead replica has claimed go to the others after this long.
_HOLD: Final = timedelta(seconds=30)
# Another replica may have started a timer that is due sooner than the known ones.
_LONGEST_WAIT: Final = 30.0
_AFTER_FAILURE: Final = 5.0


class TimerSweep:
    """One for each process; replicas share the work. `start` and `stop` may be called twice."""

    def __init__(self, database: Database, timers: Timers) -> None:
        self._database = database
        self._timers = timers
        self._planned_us: int | None = None
        self._loop = tasks.Loop("timer-sweep", self._sweep, retry=backoff.constant(_AFTER_FAILURE))
        timers.on_due = self._wake_before

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def _wake_before(self, due_us: int) -> None:
        if self._planned_us is None or due_us < self._planned_us:
            self._loop.wake()

    async def _sweep(self) -> float:
        """Processes all timers that are due; returns the seconds until the next one is."""
        while True:
            async with self._database.connection(ALL_TENANTS) as connection:
                due = await store.claim_due(connection, _AT_ONCE, _HOLD)
                await connection.commit()
            for key in due:
                await self._process(key)
            if len(due) < _AT_ONCE:
                break
        async with self._database.connection(ALL_TENANTS) as connection:
            now_us = await store.now_us(connection)
            seconds = await store.seconds_to_next(connection)
        wait = _LONGEST_WAIT if seconds is None else min(_LONGEST_WAIT, max(0.0, seconds))
        self._planned_us = now_us + int(wait * 1e6)
        return wait

    async def _process(self, key: store.TimerKey) -> None:
        try:
            await self._timers.process(key)
        except MeterlineError as error:
            # It is due again after the hold.
            log.warning("timer.not_settled", tenant_id=key[0], timer_id=key[1], error=str(error))
