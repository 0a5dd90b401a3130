"""Applies the results of folding: a fixed number of statements for any number of events.

All replicas lock in the same order (messages, members, windows, totals, months, rebuilds; within each by
key), so that they cannot deadlock.
"""

from __future__ import annotations

from typing import Any, Final, LiteralString

import numpy as np
import numpy.typing as npt
import psycopg
from meterline.clock import to_us
from meterline.db.arrays import int2_array, int4_array, int8_array, text_array, timestamptz_array, uuid_array
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_aggregate.folding.rules.changes import Changes, MemberChanges, WindowChanges
from meterline_aggregate.folding.rules.rows import TOTAL
from meterline_aggregate.folding.store import rebuild_requests, skipped
from meterline_aggregate.folding.store.literals import numeric_array
from meterline_aggregate.kinds.slots.table import SLOTS
from meterline_aggregate.windows.calendar import Grain

queries = Queries("meterline_aggregate.folding.store", "windows.sql")

Int64s = npt.NDArray[np.int64]

_HAVE_MEMBERS = np.array([slot.has_members for slot in SLOTS])

# For each way to merge, in the same order on all replicas: the statement, and which slots merge so.
_MERGES: Final = [
    (queries.merge_windows.replace("{merge}", merge), np.array([slot.sql_merge == merge for slot in SLOTS]))
    for merge in dict.fromkeys(slot.sql_merge for slot in SLOTS)
]


class AppliedBeforeError(Exception):
    """A batch was applied before, in another message. Contributions keep ids of batches permanently."""


async def apply(connection: Connection, changes: Changes) -> None:
    """Raises AppliedBeforeError when a batch was applied before; the transaction is aborted then."""
    await _add_members(connection, changes)
    try:
        # No statement needs the result of an earlier one, so all are sent in one round trip.
        async with connection.pipeline():
            await _apply(connection, changes)
    except psycopg.errors.UniqueViolation as error:
        raise AppliedBeforeError(f"a batch was applied before: {error.diag.message_detail}") from error


async def _apply(connection: Connection, changes: Changes) -> None:
    if len(changes.windows):
        for statement, slots in _MERGES:
            await _change_windows(connection, statement, changes.windows, slots[changes.windows.numbers.slot])
        await _add_contributions(connection, changes)
    if len(changes.skipped.contributions):
        await skipped.add(connection, changes)
    await _add_totals(connection, changes.totals)
    if len(changes.windows):
        # Last, so that MonthAnnouncer rarely finds these rows locked.
        await _mark_months(connection, changes)
    if changes.rebuilds.months:
        await rebuild_requests.request(connection, changes)


async def _add_members(connection: Connection, changes: Changes) -> None:
    """Stores new members, and sets the numbers of their windows' changes to how many were new."""
    members = changes.members
    if not len(members):
        return
    owners = np.unique((members.tenant_id << 32) | members.meter_id)
    parameters = (int8_array(owners), *_window_keys(members), uuid_array(members.member))
    cursor = await connection.execute(queries.add_members, parameters, binary=True)
    fresh = {
        (grain, tenant_id, meter_id, to_us(start), group_id): count
        for grain, tenant_id, meter_id, start, group_id, count in await cursor.fetchall()
    }
    windows = changes.windows
    having = np.flatnonzero(_HAVE_MEMBERS[windows.numbers.slot])
    keys = zip(
        windows.grain[having].tolist(),
        windows.tenant_id[having].tolist(),
        windows.meter_id[having].tolist(),
        windows.start_us[having].tolist(),
        windows.group_id[having].tolist(),
        strict=True,
    )
    for row, key in zip(having.tolist(), keys, strict=True):
        windows.numbers.units[row] = fresh.get(key, 0)


def _window_keys(rows: MemberChanges | WindowChanges, which: Int64s | slice = slice(None)) -> tuple[Any, ...]:
    return (
        int2_array(rows.grain[which]),
        int4_array(rows.tenant_id[which]),
        int4_array(rows.meter_id[which]),
        timestamptz_array(rows.start_us[which]),
        int8_array(rows.group_id[which]),
    )


async def _change_windows(
    connection: Connection, statement: LiteralString, windows: WindowChanges, chosen: npt.NDArray[np.bool_]
) -> None:
    which = np.flatnonzero(chosen)
    if not len(which):
        return
    literals = windows.numbers.literals(which, of_batches=False)
    parameters = (
        *_window_keys(windows, which),
        int8_array(windows.event_count[which]),
        numeric_array(literals),
    )
    await connection.execute(statement, parameters)


async def _add_contributions(connection: Connection, changes: Changes) -> None:
    given = changes.contributions
    ids = np.frombuffer(b"".join(batch.batch_id for batch in changes.batches), "V16")
    literals = given.numbers.literals(np.arange(len(given)), of_batches=True)
    parameters = (
        int4_array(given.tenant_id),
        int4_array(given.meter_id),
        timestamptz_array(given.start_us),
        uuid_array(ids[given.batch]),
        int8_array(given.event_count),
        numeric_array(literals),
    )
    await connection.execute(queries.add_contributions, parameters)


async def _add_totals(connection: Connection, totals: dict[int, int]) -> None:
    if totals:
        rows = np.array(sorted(totals.items()), np.int64)
        await connection.execute(queries.add_totals, (int4_array(rows[:, 0]), int8_array(rows[:, 1])))


async def _mark_months(connection: Connection, changes: Changes) -> None:
    windows = changes.windows
    which = np.flatnonzero((windows.grain == Grain.MONTH) & (windows.group_id == TOTAL))
    traces = [changes.batches[batch].traceparent for batch in windows.last_batch[which].tolist()]
    parameters = (
        int4_array(windows.tenant_id[which]),
        int4_array(windows.meter_id[which]),
        timestamptz_array(windows.start_us[which]),
        text_array(traces),
    )
    await connection.execute(queries.mark_months, parameters)
