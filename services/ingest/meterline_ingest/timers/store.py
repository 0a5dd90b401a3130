"""Timers: every function works in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from meterline.clock import to_datetime, to_us
from meterline.db.pool import Connection
from meterline.db.queries import Queries
from psycopg.types.json import Jsonb

from meterline_ingest.timers.rules import Content, Timer, TimerFilter, TimerState

queries = Queries("meterline_ingest.timers", "store.sql")

TimerKey = tuple[int, str]
"""Tenant, and the timer's name."""


async def now_us(connection: Connection) -> int:
    """The database's clock."""
    cursor = await connection.execute(queries.now, binary=True)
    ((moment,),) = await cursor.fetchall()
    return to_us(moment)


async def count_running(connection: Connection, tenant_id: int, most: int) -> int:
    """How many run, at most `most`."""
    cursor = await connection.execute(queries.count_running, {"tenant_id": tenant_id, "most": most})
    ((count,),) = await cursor.fetchall()
    return int(count)


async def insert(connection: Connection, timer: Timer) -> bool:
    """False when one of this name exists. Waits for a concurrent transaction that adds it."""
    stated = {
        "event_type": timer.content.event_type,
        "subject": timer.content.subject,
        "content": Jsonb(asdict(timer.content)),
        "started_by_caller": timer.started_by_caller,
        "started_at": to_datetime(timer.started_us),
    }
    cursor = await connection.execute(queries.insert_timer, _changing(timer) | stated)
    return cursor.rowcount == 1


async def find(connection: Connection, key: TimerKey) -> Timer | None:
    return await _one(connection, queries.find_timer, key)


async def lock(connection: Connection, key: TimerKey) -> Timer | None:
    """As `find`; other transactions that change it wait until this one ends."""
    return await _one(connection, queries.lock_timer, key)


async def update(connection: Connection, timer: Timer) -> None:
    """Stores the new state of a locked timer."""
    await connection.execute(queries.update_timer, _changing(timer))


async def delete(connection: Connection, key: TimerKey) -> None:
    await connection.execute(queries.delete_timer, key)


async def page(
    connection: Connection, tenant_id: int, chosen: TimerFilter, after: str, limit: int
) -> list[Timer]:
    """In the order of their names, after `after`."""
    parameters = asdict(chosen) | {"tenant_id": tenant_id, "after": after, "limit": limit}
    cursor = await connection.execute(queries.list_timers, parameters, binary=True)
    return [_timer(row) for row in await cursor.fetchall()]


async def claim_due(connection: Connection, limit: int, hold: timedelta) -> list[TimerKey]:
    """Timers of all tenants that are due. No other replica gets them for as long as `hold`."""
    cursor = await connection.execute(queries.claim_due, {"limit": limit, "hold": hold})
    return [(tenant_id, timer_id) for tenant_id, timer_id in await cursor.fetchall()]


async def seconds_to_next(connection: Connection) -> float | None:
    """Seconds until a timer of any tenant is due; None when there is none."""
    cursor = await connection.execute(queries.seconds_to_next)
    ((seconds,),) = await cursor.fetchall()
    return None if seconds is None else float(seconds)


async def _one(connection: Connection, query: Any, key: TimerKey) -> Timer | None:
    cursor = await connection.execute(query, key, binary=True)
    row = await cursor.fetchone()
    return _timer(row) if row else None


def _changing(timer: Timer) -> dict[str, Any]:
    return {
        "tenant_id": timer.tenant_id,
        "timer_id": timer.timer_id,
        "last_heartbeat_at": to_datetime(timer.last_heartbeat_us),
        "has_heartbeat": timer.has_heartbeat,
        "state": int(timer.state),
        "stopped_at": None if timer.stopped_us is None else to_datetime(timer.stopped_us),
        "flags": list(timer.flags),
        "event_id": timer.event_id,
        "problem": timer.problem,
        "attempts": timer.attempts,
        "due_at": None if timer.due_us is None else to_datetime(timer.due_us),
    }


def _timer(row: Sequence[Any]) -> Timer:
    return Timer(
        row[0],
        row[1],
        Content(**row[2]),
        row[3],
        to_us(row[4]),
        to_us(row[5]),
        TimerState(row[6]),
        None if row[7] is None else to_us(row[7]),
        tuple(row[8]),
        row[9],
        row[10],
        row[11],
        None if row[12] is None else to_us(row[12]),
        row[13],
    )
