"""Publishes the outbox. Every row is published at least once; its id makes it count once.

Pending rows are claimed with SKIP LOCKED, never by a cursor: ids that commit late would be passed over.
The row lock is held while the broker stores the message, so a relay that was paused and replaced finds
its transaction gone, and can mark nothing.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import nats.errors
import nats.js.errors
from psycopg.rows import TupleRow

from meterline import backoff, tasks
from meterline.bus.connection import FAILURES, Bus
from meterline.crashpoints import crash_point
from meterline.db.pool import Database
from meterline.ids import made_at_ms
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline.transactions.outbox import queries

log = logger()

_UPKEEP_SECONDS = 3600.0
_RETRY_UPKEEP_SECONDS = 60.0
_REPORT_SECONDS = 10.0
# How long a relay that stops may take for what it has in hand, and again for what is pending then.
_FINISH_SECONDS = 2.5


class Relay:
    """A background task. `start` and `stop` may be called twice; `stop` publishes what is pending first."""

    LINGER: Final = 0.003

    def __init__(
        self,
        database: Database,
        bus: Bus,
        *,
        claim: int = 64,
        linger: float = LINGER,
        poll: float = 1.0,
        keep: timedelta = timedelta(days=7),
    ) -> None:
        """
        claim: rows a transaction, and so messages in flight
        linger: seconds to wait after a wake-up, so that commits close together share a transaction
        poll: seconds between looks when nobody wakes the relay (another replica may have died)
        keep: how long published rows stay, to be replayed
        """
        self._database = database
        self._bus = bus
        self._claim = claim
        self._poll = poll
        self._keep = keep
        self._next_upkeep = 0.0
        self._next_report = 0.0
        self._streams_missing = False
        self._loop = tasks.Loop(
            "outbox-relay",
            self._step,
            linger=linger,
            retry=backoff.doubling(first=0.05, longest=2.0),
            passing=FAILURES,
            grace=_FINISH_SECONDS,
        )

    def wake(self) -> None:
        """Says that there is something in the outbox."""
        self._loop.wake()

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        """Publishes what is pending, unless that fails or takes too long: then another replica does."""
        was_running = self._loop.running
        await self._loop.stop()
        if was_running:
            try:
                async with asyncio.timeout(_FINISH_SECONDS):
                    while await self.publish_pending() >= self._claim:
                        pass
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows are still pending
                log.warning("outbox.left_pending", error=str(error) or type(error).__name__)

    async def _step(self) -> float:
        """Publishes what is pending. A publication under way is finished even when the relay is stopped."""
        claimed = await tasks.finish(self._publish_or_keep_up())
        return 0.0 if claimed >= self._claim else self._poll

    async def _publish_or_keep_up(self) -> int:
        await self._keep_up()
        if self._streams_missing:
            await self._bus.ensure_streams()
            self._streams_missing = False
        try:
            return await self.publish_pending()
        except nats.js.errors.NoStreamResponseError:
            self._streams_missing = True
            raise

    async def publish_pending(self) -> int:
        """Publishes up to `claim` rows; returns how many it claimed. Raises when the broker refused any.

        Rows that the broker stored are marked even when others failed.
        """
        async with self._database.connection() as connection:
            cursor = await connection.execute(queries.claim, (self._claim,), binary=True)
            rows = await cursor.fetchall()
            if not rows:
                return 0
            crash_point("outbox.relay.before_publish")
            stored, failure = await self._publish(rows)
            crash_point("outbox.relay.after_publish")
            if stored:
                await connection.execute(queries.mark_published, (stored,))
                await connection.commit()
                metrics.OUTBOX_PUBLISHED.inc(len(stored))
            crash_point("outbox.relay.after_commit")
        if failure is not None:
            raise failure
        return len(rows)

    async def _publish(self, rows: Sequence[TupleRow]) -> tuple[list[uuid.UUID], BaseException | None]:
        jetstream = self._bus.jetstream()
        # A bounded gather of plain publishes: futures of publish_async never end on an error answer.
        answers = asyncio.gather(
            *(
                jetstream.publish(subject, payload, headers={"Nats-Msg-Id": str(message_id), **headers})
                for message_id, subject, headers, payload in rows
            ),
            return_exceptions=True,
        )
        results = await self._unless_lost(answers)
        stored: list[uuid.UUID] = []
        failure: BaseException | None = None
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, BaseException):
                failure = result
            else:
                stored.append(row[0])  # `duplicate` in the answer means that it was stored before
        return stored, failure

    async def _unless_lost(self, answers: asyncio.Future[list[Any]]) -> list[Any]:
        """The answers. Raises ConnectionClosedError once the connection is lost: the rest will not come."""
        lost = asyncio.create_task(self._bus.lost())
        either: set[asyncio.Future[Any]] = {answers, lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answers.done():
                raise nats.errors.ConnectionClosedError
            return answers.result()
        finally:
            for future in either:
                future.cancel()
            await asyncio.gather(*either, return_exceptions=True)

    async def _keep_up(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_upkeep:
            self._next_upkeep = now + _RETRY_UPKEEP_SECONDS
            await self._maintain()
            self._next_upkeep = now + _UPKEEP_SECONDS
        if now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            await self._report()

    async def _report(self) -> None:
        """Sets the metrics of how much is pending, and for how long."""
        ((count, oldest),) = await self._database.fetch(queries.oldest_pending)
        metrics.OUTBOX_PENDING.set(count)
        age = time.time() - made_at_ms(oldest) / 1000 if oldest else 0.0
        metrics.OUTBOX_AGE_SECONDS.set(max(0.0, age))

    async def _maintain(self) -> None:
        """Makes coming partitions and drops old ones."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(queries.maintain, (self._keep,))
            for (partition,) in await cursor.fetchall():
                log.info("outbox.partition_dropped", partition=partition)
            await connection.commit()
