"""Stores batches of events once each, in one transaction with the message that reports them."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import psycopg
from meterline.clock import to_datetime
from meterline.db import arrays
from meterline.db.pool import Connection, Database, begin
from meterline.db.queries import Queries
from opentelemetry.trace import SpanContext
from psycopg import sql

from meterline_ingest.capture.rules.quantities import Slot
from meterline_ingest.capture.store.copy_format import event_rows
from meterline_ingest.capture.store.partitions import Partitions
from meterline_ingest.capture.store.recently_seen import RecentlySeen
from meterline_ingest.capture.store.stored_rows import NOTHING, StoredRows, stored_rows
from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event.bounds import MAX_QUANTITIES
from meterline_ingest.event.columns import UUID_DTYPE, Flags, Ids, Int64s

queries = Queries("meterline_ingest.capture.store", "events.sql")

# Below this a single INSERT … ON CONFLICT is as fast as COPY, and never has to be repeated.
COPY_FROM_ROWS = 200
# After a stored id that was not suspected, all ids of so many batches are looked up before the COPY: one such
# id is followed by more, and a failed COPY costs as much as some ten lookups of all its ids. The same holds
# for the first batches of a process, when it remembers nothing and clients repeat what they sent before.
DOUBTFUL_BATCHES = 30

# Errors after which a batch is stored in another way: an id is stored already, the same events arrive twice
# at once, or the partitions have changed.
_COPY_AGAIN = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.CheckViolation,
    psycopg.errors.UndefinedTable,
)


@dataclass(slots=True)
class Rows:
    """Good events, ready to store: arrays of one length. `text_ids` as in Columns."""

    ids: Ids
    tenant_ids: Int64s
    batch_numbers: Int64s
    subject_ids: Int64s
    times_us: Int64s
    series_ids: Int64s
    slots: list[Slot | None]
    text_ids: list[str | None] | None

    def __len__(self) -> int:
        return len(self.times_us)

    def units(self) -> tuple[Int64s, Int64s]:
        """(units, missing): MAX_QUANTITIES columns with 0 where a value is missing; of each row one bit a
        quantity, set where it is missing."""
        units = np.zeros((len(self), MAX_QUANTITIES), np.int64)
        missing = np.zeros(len(self), np.int64)
        for at, slot in enumerate(self.slots):
            if slot is None:
                missing |= 1 << at
            elif slot.present is None:
                units[:, at] = slot.units
            else:
                units[:, at] = np.where(slot.present, slot.units, 0)
                missing |= (~slot.present).astype(np.int64) << at
        return units, missing

    def take(self, rows: Int64s) -> Rows:
        slots = [
            slot and Slot(slot.units[rows], None if slot.present is None else slot.present[rows])
            for slot in self.slots
        ]
        texts = None if self.text_ids is None else [self.text_ids[row] for row in rows.tolist()]
        return Rows(
            self.ids[rows],
            self.tenant_ids[rows],
            self.batch_numbers[rows],
            self.subject_ids[rows],
            self.times_us[rows],
            self.series_ids[rows],
            slots,
            texts,
        )


@dataclass(frozen=True, slots=True)
class BatchRow:
    """What one call added for one tenant. Times in microseconds since the Unix epoch.

    first_us, last_us: the span of its events' times
    retracted: events that it retracts, in addition to the `event_count` that it counts
    """

    batch_id: bytes
    tenant_id: int
    batch_number: int
    source: str
    event_count: int
    received_at_us: int
    sent_at_us: int | None
    skew_us: int
    origin: BatchOrigin
    first_us: int
    last_us: int
    trace: SpanContext
    retracted: int = 0
    import_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Inserted:
    """new: which rows were stored. stored: events that were there before, perhaps not all of them."""

    new: Flags
    stored: StoredRows


class EventWriter:
    """One for each process."""

    def __init__(self, database: Database, partitions: Partitions) -> None:
        self._database = database
        self._partitions = partitions
        self._seen = RecentlySeen()
        self._doubtful = DOUBTFUL_BATCHES
        self._numbers = iter(range(0))

    async def batch_numbers(self, count: int) -> list[int]:
        """Unique numbers for new batches."""
        numbers: list[int] = []
        while len(numbers) < count:
            number = next(self._numbers, None)
            if number is None:
                ((first,),) = await self._database.fetch(queries.next_batch_numbers)
                self._numbers = iter(range(first, first + 1024))
            else:
                numbers.append(number)
        return numbers

    async def insert(self, connection: Connection, rows: Rows, tenants: Collection[int]) -> Inserted:
        """Inserts `rows` into the open transaction of `tenants`.

        May roll the transaction back to start again, so it must come first in it.
        """
        suspects, repeated = self._seen.add(rows.ids, rows.tenant_ids)
        if len(rows) < COPY_FROM_ROWS:
            return Inserted(await self._insert(connection, rows, tenants), NOTHING)
        if self._doubtful:
            self._doubtful -= 1
            stored = await self._look_up_all(connection, rows, suspects | repeated)
        else:
            stored = await _look_up(connection, rows, np.flatnonzero(suspects & ~repeated))
        for last in (False, True):
            new = ~repeated
            if len(stored):
                new &= stored.find(rows.ids, rows.tenant_ids) < 0
            try:
                await self._copy(connection, rows, new)
                return Inserted(new, stored)
            except _COPY_AGAIN as error:
                await self._start_again(connection, tenants, error)
            if not last:
                stored = await self._look_up_all(connection, rows, suspects | repeated)
        return Inserted(await self._insert(connection, rows, tenants), stored)

    async def _look_up_all(self, connection: Connection, rows: Rows, expected: Flags) -> StoredRows:
        """What is stored under the ids of `rows`. Batches are doubtful if it is more than `expected`."""
        stored = await stored_rows(connection, rows.ids, rows.tenant_ids)
        if len(stored) and (stored.find(rows.ids[~expected], rows.tenant_ids[~expected]) >= 0).any():
            self._doubtful = max(self._doubtful, DOUBTFUL_BATCHES)
        return stored

    async def _start_again(
        self, connection: Connection, tenants: Collection[int], error: psycopg.Error
    ) -> None:
        await connection.rollback()
        await begin(connection, tenants)
        if isinstance(error, psycopg.errors.CheckViolation | psycopg.errors.UndefinedTable):
            await self._partitions.refresh()

    async def _copy(self, connection: Connection, rows: Rows, new: Flags) -> None:
        chosen = rows if new.all() else rows.take(np.flatnonzero(new))
        order = _order(chosen)
        ordered = chosen if order is None else chosen.take(order)
        for partition, part in self._partitions.split(ordered.ids):
            await _copy_to(connection, partition, ordered if part is None else ordered.take(part))
        await _insert_text_ids(connection, rows, new)

    async def _insert(self, connection: Connection, rows: Rows, tenants: Collection[int]) -> Flags:
        for attempt in range(3):
            try:
                new = await self._insert_some(connection, rows)
                break
            except psycopg.errors.DeadlockDetected:
                # Sorted inserts cannot deadlock each other, but can with a COPY under way.
                await connection.rollback()
                if attempt == 2:
                    raise
                await begin(connection, tenants)
        await _insert_text_ids(connection, rows, new)
        return new

    async def _insert_some(self, connection: Connection, rows: Rows) -> Flags:
        order = _full_order(rows)
        sorted_rows = rows.take(order)
        cursor = await connection.execute(queries.insert_events, _parameters(sorted_rows), binary=True)
        returned = await cursor.fetchall()
        new = np.zeros(len(rows), np.bool_)
        if len(returned) == len(rows):
            new[:] = True
            return new
        fresh = {(event_id.bytes, tenant_id) for event_id, tenant_id in returned}
        # Of equal ids the first in sorted order was stored; lexsort is stable, so it is the first row.
        for row, key in zip(order.tolist(), _keys(sorted_rows), strict=True):
            if key in fresh:
                fresh.discard(key)
                new[row] = True
        return new

    async def insert_batches(
        self, connection: Connection, batches: Sequence[BatchRow], message_id: uuid.UUID
    ) -> None:
        """Adds what each call brought; `message_id` is the message that reports it."""
        await connection.execute(queries.insert_batches, (message_id, *_batch_parameters(batches)))


def _parameters(rows: Rows) -> tuple[arrays.Binary, ...]:
    count = len(rows)
    nothing = Slot(np.zeros(count, np.int64), np.zeros(count, np.bool_))
    return (
        arrays.uuid_array(rows.ids),
        arrays.int4_array(rows.tenant_ids),
        arrays.int8_array(rows.batch_numbers),
        arrays.int8_array(rows.subject_ids),
        arrays.timestamptz_array(rows.times_us),
        arrays.int4_array(rows.series_ids),
        *(
            arrays.int8_array_or_null((slot or nothing).units, (slot or nothing).present)
            for slot in rows.slots
        ),
    )


async def _look_up(connection: Connection, rows: Rows, chosen: Int64s) -> StoredRows:
    if not len(chosen):
        return NOTHING
    return await stored_rows(connection, rows.ids[chosen], rows.tenant_ids[chosen])


def _order(rows: Rows) -> Int64s | None:
    """The order of the key, None if the rows are in it.

    Batches with common events, each copied in this order, wait for one another. In other orders they can
    deadlock, which Postgres finds out after a second.
    """
    fronts, backs = (half.astype(np.uint64) for half in rows.ids.view(">u8").reshape(-1, 2).T)
    if _ascending(fronts, backs):
        return None
    # UUIDv7 mostly differ in their first half.
    order = np.argsort(fronts, kind="stable")
    return order if _ascending(fronts[order], backs[order]) else _full_order(rows)


def _ascending(fronts: npt.NDArray[np.uint64], backs: npt.NDArray[np.uint64]) -> bool:
    later = fronts[1:] > fronts[:-1]
    later |= (fronts[1:] == fronts[:-1]) & (backs[1:] > backs[:-1])
    return bool(later.all())


def _full_order(rows: Rows) -> Int64s:
    return np.lexsort((rows.tenant_ids, *rows.ids.view(">u8").reshape(-1, 2).T[::-1]))


def _keys(rows: Rows) -> list[tuple[bytes, int]]:
    return list(zip(rows.ids.tolist(), rows.tenant_ids.tolist(), strict=True))


async def _copy_to(connection: Connection, partition: str, rows: Rows) -> None:
    buffer = event_rows(
        rows.ids,
        rows.batch_numbers,
        rows.subject_ids,
        rows.times_us,
        rows.slots,
        rows.tenant_ids,
        rows.series_ids,
    )
    statement = sql.SQL(queries.copy_events).format(partition=sql.Identifier(partition))
    async with connection.cursor().copy(statement) as copy:
        await copy.write(buffer)


async def _insert_text_ids(connection: Connection, rows: Rows, new: Flags) -> None:
    if rows.text_ids is None:
        return
    kept = [row for row in np.flatnonzero(new).tolist() if rows.text_ids[row] is not None]
    if kept:
        chosen = rows.take(np.array(kept))
        texts = [text for text in chosen.text_ids or [] if text is not None]
        ids, tenants = arrays.uuid_array(chosen.ids), arrays.int4_array(chosen.tenant_ids)
        await connection.execute(queries.insert_text_ids, (ids, tenants, arrays.text_array(texts)))


def _batch_parameters(batches: Sequence[BatchRow]) -> tuple[object, ...]:
    return (
        arrays.uuid_array(np.frombuffer(b"".join(batch.batch_id for batch in batches), UUID_DTYPE)),
        arrays.int4_array(np.array([batch.tenant_id for batch in batches])),
        arrays.int8_array(np.array([batch.batch_number for batch in batches])),
        arrays.text_array([batch.source for batch in batches]),
        arrays.int4_array(np.array([batch.event_count for batch in batches])),
        arrays.timestamptz_array(np.array([batch.received_at_us for batch in batches])),
        [None if batch.sent_at_us is None else to_datetime(batch.sent_at_us) for batch in batches],
        arrays.int8_array(np.array([batch.skew_us for batch in batches])),
        arrays.int2_array(np.array([batch.origin for batch in batches])),
        arrays.timestamptz_array(np.array([batch.first_us for batch in batches])),
        arrays.timestamptz_array(np.array([batch.last_us for batch in batches])),
        [uuid.UUID(int=batch.trace.trace_id) if batch.trace.is_valid else None for batch in batches],
        # Span ids are unsigned, int8 is not.
        [signed(batch.trace.span_id) if batch.trace.is_valid else None for batch in batches],
        [batch.trace.trace_flags.sampled for batch in batches],
        arrays.int4_array(np.array([batch.retracted for batch in batches])),
        [batch.import_id for batch in batches],
    )


def signed(unsigned: int) -> int:
    """A span id as it is stored."""
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned


def unsigned(signed: int) -> int:
    """The span id of a stored value."""
    return signed & ((1 << 64) - 1)
