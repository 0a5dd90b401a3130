"""Folds events of a month that replicas skipped because they did not know the meter's kind."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Final

import numpy as np
from meterline.errors import AbortedError
from meterline.transactions.unit_of_work import Transaction, UnitOfWork
from meterline_protos.ingest.v1 import events_pb2

from meterline_aggregate.folding.decoding import Accepted
from meterline_aggregate.folding.rules.dispatch import fold
from meterline_aggregate.folding.rules.rows import Message
from meterline_aggregate.folding.skips import mark_of
from meterline_aggregate.folding.store import windows
from meterline_aggregate.meters.rules.definitions import Meter
from meterline_aggregate.rebuilds import store
from meterline_aggregate.rebuilds.raw_events import RawEvents, accepted_of
from meterline_aggregate.rebuilds.store import Claim
from meterline_aggregate.windows.calendar import windows_at

# Most batches and rows per transaction; a batch is folded whole, so a larger one has its own.
_BATCHES: Final = 500
_ROWS: Final = 10_000


class LateFolding:
    """Folds skipped events of one claimed month. Memory holds the events of one transaction.

    One transaction deletes a batch from `skipped` and folds it, so it counts once, even if other replicas
    fold the month at the same time.
    """

    def __init__(self, unit_of_work: UnitOfWork, raw: RawEvents, meter: Meter, claimed: Claim) -> None:
        self._unit_of_work = unit_of_work
        self._raw = raw
        self._meter = meter
        self._claimed = claimed

    async def run(self) -> None:
        """Folds all skipped events of the month.

        Raises UnavailableError, and AbortedError when another replica has claimed the month.
        """
        while True:
            async with self._begin() as tx:
                batch_ids = await store.skipped_batches(tx.connection, self._claimed, _BATCHES, _ROWS)
            if not batch_ids:
                return
            pages = self._raw.pages(self._claimed.month, self._meter, batch_ids)
            await self._fold(batch_ids, [event async for page in pages for event in page])

    async def _fold(self, batch_ids: Sequence[uuid.UUID], events: Sequence[events_pb2.StoredEvent]) -> None:
        async with self._begin() as tx:
            taken = await store.take_skipped(tx.connection, self._claimed, batch_ids)
            if events:
                accepted = accepted_of(self._claimed.month.tenant_id, self._meter, events)
                message = await self._raw.look_up(tx, self._meter, accepted)
                changes = fold([self._counted(accepted, message, taken)])
                # The skipping replica has added these events to the tenant's total already.
                changes.totals.clear()
                await windows.apply(tx.connection, changes)
            # Last, since folding transactions lock this row last.
            if not await store.renew(tx.connection, self._claimed, store.LEASE):
                raise AbortedError("the month was claimed by another")
            await tx.commit()

    def _counted(
        self, accepted: Accepted, message: Message, taken: dict[tuple[int, bytes], bytes]
    ) -> Message:
        """The rows of skipped slices; of their retracted rows only those that were marked as the meter's."""
        zone = self._claimed.month.zone
        marks = {
            key: Counter(own[at : at + 16] for at in range(0, len(own), 16)) for key, own in taken.items()
        }
        owners = np.repeat(np.arange(len(message.batches)), [batch.rows for batch in message.batches])
        kept = np.ones(len(message), np.bool_)
        gone = message.retracted_rows
        for row in range(len(message)):
            start = windows_at(zone, int(message.times_us[row])).lineage
            own_marks = marks.get((start, message.batches[owners[row]].batch_id))
            if own_marks is None:
                kept[row] = False
            elif gone[row]:
                mark = mark_of(accepted, row)
                kept[row] = own_marks[mark] > 0
                own_marks[mark] -= 1
        left = message.only(kept)
        return left if message.retracted is None else replace(left, retracted=gone[kept])

    def _begin(self) -> AbstractAsyncContextManager[Transaction]:
        return self._unit_of_work.begin(tenants=[self._claimed.month.tenant_id])
