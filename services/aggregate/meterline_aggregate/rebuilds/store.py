"""Claims months to rebuild, stages their new windows, and replaces the old ones."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
from meterline.clock import to_datetime, to_us
from meterline.db.arrays import int2_array, int8_array, timestamptz_array, uuid_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.folding.rules.changes import Changes
from meterline_aggregate.folding.store.literals import numeric_array
from meterline_aggregate.kinds.slots.slot import Slot
from meterline_aggregate.kinds.table import numbers
from meterline_aggregate.windows.calendar import HOUR_US, Grain, end_of

queries = Queries("meterline_aggregate.rebuilds", "store.sql")

FIRST_BATCH: Final = uuid.UUID(int=0)

# Longer than any page takes, so that a claim only ends when its owner has died.
LEASE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Month:
    """A month of one meter of one tenant. `slug` is the tenant's name."""

    tenant_id: int
    slug: str
    zone: str
    meter_id: int
    start_us: int

    @property
    def end_us(self) -> int:
        return end_of(Grain.MONTH, self.zone, self.start_us)

    @property
    def first_us(self) -> int:
        """The start of the hour that contains the month's start. In zones half an hour off, that hour belongs
        to two months, so whole hours are read."""
        return self.start_us - self.start_us % HOUR_US

    @property
    def last_us(self) -> int:
        return self.end_us + -self.end_us % HOUR_US

    def parameters(self) -> dict[str, Any]:
        return {
            "tenant_id": self.tenant_id,
            "meter_id": self.meter_id,
            "start": to_datetime(self.start_us),
            "end": to_datetime(self.end_us),
            "first": to_datetime(self.first_us),
            "last": to_datetime(self.last_us),
        }


@dataclass(frozen=True, slots=True)
class Claim:
    """A month that one replica rebuilds. `rebuild_id` is unique to the attempt."""

    month: Month
    attempts: int
    rebuild_id: uuid.UUID

    def parameters(self, **more: Any) -> dict[str, Any]:
        return self.month.parameters() | {"rebuild_id": self.rebuild_id} | more


async def count_pending(connection: Connection) -> int:
    cursor = await connection.execute(queries.count_pending, binary=True)
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def claim(connection: Connection, rebuild_id: uuid.UUID, lease: timedelta) -> Claim | None:
    """Claims the due month that is due longest, for the lease; deletes what an earlier attempt staged.

    Skips months of meters of unknown kinds.
    """
    parameters = {"rebuild_id": rebuild_id, "lease": lease, "known": numbers()}
    cursor = await connection.execute(queries.claim, parameters, binary=True)
    row = await cursor.fetchone()
    if row is None:
        return None
    tenant_id, slug, zone, meter_id, start, attempts, before = row
    if before is not None:
        await connection.execute(queries.clear, {"tenant_id": tenant_id, "rebuild_id": before})
    return Claim(Month(tenant_id, slug, zone, meter_id, to_us(start)), attempts, rebuild_id)


async def renew(connection: Connection, claimed: Claim, lease: timedelta) -> bool:
    """Whether the claim still holds; if so, nobody else can claim the month before this transaction ends."""
    cursor = await connection.execute(queries.renew, claimed.parameters(lease=lease))
    return await cursor.fetchone() is not None


async def postpone(connection: Connection, claimed: Claim, pause: timedelta) -> None:
    await connection.execute(queries.postpone, claimed.parameters(pause=pause))


async def clear(connection: Connection, claimed: Claim) -> None:
    """Deletes what was staged."""
    await connection.execute(queries.clear, claimed.parameters())


async def skipped_batches(connection: Connection, claimed: Claim, batches: int, rows: int) -> list[uuid.UUID]:
    """Ids of batches with skipped events of the month: at most `batches`, with at most `rows` events together
    unless one batch alone has more."""
    cursor = await connection.execute(queries.skipped_batches, claimed.parameters(limit=batches), binary=True)
    found: list[uuid.UUID] = []
    for batch_id, own in await cursor.fetchall():
        rows -= own
        if found and rows < 0:
            break
        found.append(batch_id)
    return found


async def take_skipped(
    connection: Connection, claimed: Claim, batch_ids: Sequence[uuid.UUID]
) -> dict[tuple[int, bytes], bytes]:
    """Deletes the records that the month skipped these batches. Returns the marks of the rows that they
    retract, by start and batch; see `skipping.mark`.

    The caller must fold them in the same transaction.
    """
    parameters = claimed.parameters(batch_ids=list(batch_ids))
    cursor = await connection.execute(queries.take_skipped, parameters, binary=True)
    return {(to_us(start), batch_id.bytes): taken for start, batch_id, taken in await cursor.fetchall()}


async def any_skipped(connection: Connection, claimed: Claim) -> bool:
    """Whether the month has skipped events. While the claim is locked, others cannot add any."""
    cursor = await connection.execute(queries.any_skipped, claimed.parameters(), binary=True)
    row = await cursor.fetchone()
    return bool(row and row[0])


async def finish(connection: Connection, claimed: Claim) -> bool:
    """Deletes the request for the rebuild; returns whether the claim still held."""
    cursor = await connection.execute(queries.finish, claimed.parameters())
    return await cursor.fetchone() is not None


async def gather(connection: Connection, claimed: Claim) -> int:
    """Lists the batches that contributed to the month; returns how many are new in the list."""
    cursor = await connection.execute(queries.gather, claimed.parameters())
    return cursor.rowcount


async def unstaged(connection: Connection, claimed: Claim, after: uuid.UUID, limit: int) -> list[uuid.UUID]:
    """Batches after `after` that are not staged, by id."""
    cursor = await connection.execute(
        queries.unstaged, claimed.parameters(after=after, limit=limit), binary=True
    )
    return [batch_id for (batch_id,) in await cursor.fetchall()]


async def mark_staged(connection: Connection, claimed: Claim, batch_ids: Sequence[uuid.UUID]) -> None:
    await connection.execute(queries.mark_staged, claimed.parameters(batch_ids=list(batch_ids)))


async def batches_of(connection: Connection, month: Month) -> list[uuid.UUID]:
    """All batches that contributed to the month."""
    cursor = await connection.execute(queries.batches_of, month.parameters(), binary=True)
    return [batch_id for (batch_id,) in await cursor.fetchall()]


async def retracting(connection: Connection, month: Month) -> list[uuid.UUID]:
    """The batches that retracted events from the month."""
    cursor = await connection.execute(queries.retracting, month.parameters(), binary=True)
    return [batch_id for (batch_id,) in await cursor.fetchall()]


async def stage(connection: Connection, claimed: Claim, changes: Changes, slot: Slot) -> None:
    """Merges folded changes into the staged ones; all must be of the claimed month's meter, whose slot is
    `slot`.
    """
    windows, members = changes.windows, changes.members
    owner = (claimed.month.tenant_id, claimed.rebuild_id)
    if len(windows):
        literals = windows.numbers.literals(np.arange(len(windows)), of_batches=True)
        parameters = (
            *owner,
            int2_array(windows.grain),
            timestamptz_array(windows.start_us),
            int8_array(windows.group_id),
            int8_array(windows.event_count),
            numeric_array(literals),
        )
        await connection.execute(queries.stage_windows.replace("{merge}", slot.sql_merge), parameters)
    if len(members):
        keys = (
            int2_array(members.grain),
            timestamptz_array(members.start_us),
            int8_array(members.group_id),
            uuid_array(members.member),
        )
        await connection.execute(queries.stage_members, (*owner, *keys))


async def lock(connection: Connection, claimed: Claim, slot: Slot) -> None:
    """Blocks folding into the month until the transaction ends, and nothing else. Raises
    meterline.errors.UnavailableError, at the end of the transaction, when the wait takes over 5 seconds."""
    await connection.execute(queries.limit_waiting)
    if slot.has_members:
        await connection.execute(queries.lock_members, claimed.parameters())
    await connection.execute(queries.lock_windows, claimed.parameters())


async def count_members(connection: Connection, claimed: Claim) -> None:
    """Sets the numbers of staged windows to the numbers of their staged members."""
    await connection.execute(queries.count_members, claimed.parameters())


async def count_differing(connection: Connection, claimed: Claim) -> int:
    """How many windows have another number of events than their staged ones."""
    cursor = await connection.execute(queries.count_differing, claimed.parameters(), binary=True)
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def replace(connection: Connection, claimed: Claim, slot: Slot) -> bool:
    """Replaces the month's windows by the staged ones and marks it as changed; returns whether the claim
    still held."""
    parameters = claimed.parameters(empty=slot.empty)
    if slot.has_members:
        await connection.execute(queries.drop_members, parameters)
    await connection.execute(queries.replace_windows, parameters)
    await connection.execute(queries.mark_month, parameters)
    finished = await finish(connection, claimed)
    await connection.execute(queries.clear, parameters)
    return finished
