"""One attempt to rebuild a month of a meter from all remaining events."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Final

from meterline.errors import AbortedError
from meterline.transactions.unit_of_work import Transaction, UnitOfWork

from meterline_aggregate.folding.rules.dispatch import fold
from meterline_aggregate.folding.rules.retractions import Retractions
from meterline_aggregate.meters.rules.definitions import Meter
from meterline_aggregate.rebuilds import store
from meterline_aggregate.rebuilds.late import LateFolding
from meterline_aggregate.rebuilds.raw_events import Page, RawEvents
from meterline_aggregate.rebuilds.store import FIRST_BATCH, LEASE, Claim

# Batches per request.
_BATCHES: Final = 500
# Rounds of reading new batches without locks before the last ones are read under the lock.
_ROUNDS: Final = 4


class Outcome(Enum):
    """The result of an attempt to replace the month."""

    DONE = auto()
    # More events were folded or skipped since the last read.
    MORE = auto()
    # More events were retracted since, perhaps some that are staged.
    RETRACTED = auto()
    # The numbers of events in windows differ from those that ingest returned: some are still in transit.
    DIFFERS = auto()


class Rebuild:
    """Stages events batch by batch, and replaces the month once all batches are staged.

    Memory holds one page of events and all retracted rows of the month.
    """

    def __init__(self, unit_of_work: UnitOfWork, raw: RawEvents, meter: Meter, claimed: Claim) -> None:
        self._unit_of_work = unit_of_work
        self._raw = raw
        self._meter = meter
        self._claimed = claimed
        self._slot = meter.kind.slot
        self._late = LateFolding(unit_of_work, raw, meter, claimed)
        self._retractions = Retractions()
        self._sources: list[uuid.UUID] = []

    async def run(self) -> Outcome:
        """Raises UnavailableError, and AbortedError when another replica has claimed the month."""
        await self._late.run()
        if self._meter.kind.inverse:
            return await self._finish()
        await self._restart()
        outcome = Outcome.MORE
        for left in reversed(range(_ROUNDS)):
            await self._stage_new()
            outcome = await self._replace(last=not left)
            if outcome in (Outcome.DONE, Outcome.DIFFERS):
                break
            await self._late.run()
            if outcome is Outcome.RETRACTED:
                await self._restart()
        return outcome

    async def _finish(self) -> Outcome:
        """Ends a rebuild that only had to fold skipped events: slots with an inverse need no replacement."""
        async with self._held() as tx:
            if await store.any_skipped(tx.connection, self._claimed):
                return Outcome.MORE
            await store.finish(tx.connection, self._claimed)
            await tx.commit()
        return Outcome.DONE

    async def _restart(self) -> None:
        async with self._held() as tx:
            await store.clear(tx.connection, self._claimed)
            self._sources = await store.retracting(tx.connection, self._claimed.month)
            await tx.commit()
        self._retractions = Retractions()
        for first in range(0, len(self._sources), _BATCHES):
            async for page in self._pages(self._sources[first : first + _BATCHES]):
                async with self._held() as tx:
                    self._retractions.note(
                        await self._raw.to_message(tx, self._claimed.month.tenant_id, self._meter, page)
                    )
                    await tx.commit()

    async def _stage_new(self) -> None:
        """Stages the batches that are not staged yet, a group of batches at a time."""
        async with self._held() as tx:
            await store.gather(tx.connection, self._claimed)
            await tx.commit()
        after = FIRST_BATCH
        while True:
            async with self._held() as tx:
                batch_ids = await store.unstaged(tx.connection, self._claimed, after, _BATCHES)
                await tx.commit()
            if not batch_ids:
                return
            async for page in self._pages(batch_ids):
                async with self._held() as tx:
                    await self._stage(tx, page)
                    await tx.commit()
            async with self._held() as tx:
                await store.mark_staged(tx.connection, self._claimed, batch_ids)
                await tx.commit()
            after = batch_ids[-1]

    async def _replace(self, *, last: bool) -> Outcome:
        async with self._begin() as tx:
            if self._slot.has_members:
                await store.count_members(tx.connection, self._claimed)
            await store.lock(tx.connection, self._claimed, self._slot)
            # Nobody can fold into the month from here on, so these reads are final.
            if await store.retracting(tx.connection, self._claimed.month) != self._sources:
                return Outcome.RETRACTED
            if await store.gather(tx.connection, self._claimed):
                if not last:
                    return Outcome.MORE
                await self._stage_rest(tx)
            if await store.count_differing(tx.connection, self._claimed):
                return Outcome.DIFFERS
            # The row lock keeps others from skipping more events of the month until the end.
            if not await store.renew(tx.connection, self._claimed, LEASE):
                raise AbortedError("the month was claimed by another")
            if await store.any_skipped(tx.connection, self._claimed):
                return Outcome.MORE
            if not await store.replace(tx.connection, self._claimed, self._slot):
                raise AbortedError("the month was claimed by another")
            await tx.commit()
        return Outcome.DONE

    async def _stage_rest(self, tx: Transaction) -> None:
        """Stages the last batches under the lock, so that a month with constant traffic is completed too."""
        after = FIRST_BATCH
        while batch_ids := await store.unstaged(tx.connection, self._claimed, after, _BATCHES):
            async for page in self._pages(batch_ids):
                await self._stage(tx, page)
            after = batch_ids[-1]
        if self._slot.has_members:
            await store.count_members(tx.connection, self._claimed)

    async def _stage(self, tx: Transaction, page: Page) -> None:
        message = await self._raw.to_message(tx, self._claimed.month.tenant_id, self._meter, page)
        changes = fold([self._retractions.remove(message)])
        await store.stage(tx.connection, self._claimed, changes, self._slot)

    def _pages(self, batch_ids: Sequence[uuid.UUID]) -> AsyncIterator[Page]:
        return self._raw.pages(self._claimed.month, self._meter, batch_ids)

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[Transaction]:
        async with self._unit_of_work.begin(tenants=[self._claimed.month.tenant_id]) as tx:
            yield tx

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[Transaction]:
        """A transaction that holds the claim. Raises AbortedError when it was lost."""
        async with self._begin() as tx:
            if not await store.renew(tx.connection, self._claimed, LEASE):
                raise AbortedError("the month was claimed by another")
            yield tx
