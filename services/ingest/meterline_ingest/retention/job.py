"""Deletes raw events that are older than the retention, after aggregate has certainly counted them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline_protos.aggregate.v1 import reconciliation_pb2, reconciliation_pb2_grpc

from meterline_ingest.capture.store.horizon import OldEvents
from meterline_ingest.corrections.peers import Peer, PeerUnavailableError

log = logger()

# Nothing still works with data that changed so long ago. Callers' deadlines are far shorter.
GRACE: Final = timedelta(hours=1)
SWEPT_BATCHES: Final = 100


class Reconciled:
    """Whether aggregate has counted all accepted events. Asks repeatedly, since events of a busy tenant are
    on their way at most moments."""

    def __init__(self, aggregate: Peer, *, looks: int = 20, pause: float = 3.0) -> None:
        """
        looks: how often to ask until every tenant had no gap once
        pause: seconds in between
        """
        self._aggregate = aggregate
        self._looks = looks
        self._pause = pause
        self._kept_since: datetime | None = None
        self._even: set[str] = set()

    async def since(self, kept_since: datetime) -> bool:
        """Whether every tenant had no gap at some time after this horizon was announced."""
        if kept_since != self._kept_since:
            self._kept_since, self._even = kept_since, set()
        for look in range(self._looks):
            if look:
                await asyncio.sleep(self._pause)
            try:
                stub = reconciliation_pb2_grpc.ReconciliationServiceStub(self._aggregate.channel)
                answer = await self._aggregate.ask(
                    stub.Compare(reconciliation_pb2.CompareRequest(), timeout=60)
                )
            except PeerUnavailableError as error:
                log.warning("retention.aggregate_unavailable", error=str(error))
                return False
            self._even.update(each.tenant_id for each in answer.tenants if each.gap == 0)
            if all(each.tenant_id in self._even for each in answer.tenants):
                return True
        uneven = sorted({each.tenant_id for each in answer.tenants} - self._even)
        log.warning("retention.not_reconciled", tenants=uneven[:20], count=len(uneven))
        return False


class Retention:
    """`run` does what is due, and several processes may call it at once."""

    def __init__(
        self, events: OldEvents, reconciled: Reconciled, keep: timedelta, *, grace: timedelta = GRACE
    ) -> None:
        """
        keep: how long raw events are kept; 0: nothing is deleted
        grace: how long a horizon must have been known before data behind it is deleted
        """
        self._events = events
        self._reconciled = reconciled
        self._keep = keep
        self._grace = grace

    async def announce(self) -> None:
        """Makes capture refuse events from now on that are to be deleted later."""
        if self._keep:
            await self._events.announce(self._keep)

    async def run(self) -> None:
        if not self._keep:
            return
        kept_since = await self._events.announce(self._keep)
        if await self._events.any_left() and await self._reconciled.since(kept_since):
            while (month := await self._events.drop_month(self._grace)) is not None:
                log.info("retention.month_dropped", month=f"{month:%Y-%m}")
            while await self._events.sweep(self._grace, SWEPT_BATCHES):
                pass
        metrics.MONTHS_TO_DROP.set(len(await self._events.months()))
