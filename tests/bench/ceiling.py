"""The raw ceiling: binary COPY of the rows that capture would store, on concurrent connections."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psycopg
from meterline_ingest.capture.rules.quantities import Slot
from meterline_ingest.capture.store.copy_format import event_rows
from meterline_ingest.capture.store.events import queries
from meterline_ingest.event.bounds import MAX_QUANTITIES
from psycopg import sql

from tests.bench import pipes
from tests.bench.workload import REGIONS, Events, Workload, generate

SCHEMA = "bench_copy"
_KEY = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conrelid = %s::regclass"


@dataclass(frozen=True, slots=True)
class CopyOrder:
    """dsn: of an administrator; events, seconds: the run ends at the first of these bounds"""

    dsn: str
    workload: Workload
    batch: int
    connections: int
    events: int
    seconds: float
    seed: int = 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def create_table(dsn: str) -> None:
    """An empty table with the columns and the key of ingest's events, and no other index."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        drop_table(dsn)
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        connection.execute(f"CREATE TABLE {SCHEMA}.events (LIKE ingest.events)")
        found = connection.execute(_KEY, ("ingest.events",)).fetchone()
        assert found is not None
        connection.execute(sql.SQL(f"ALTER TABLE {SCHEMA}.events ADD {{}}").format(sql.SQL(found[0])))


def drop_table(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


def stored(dsn: str) -> tuple[int, int]:
    """(events, units) in the table."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        query = f"SELECT count(*), coalesce(sum(quantity_1), 0)::bigint FROM {SCHEMA}.events"
        found = connection.execute(query).fetchone()
        assert found is not None
        return found[0], found[1]


def buffers(events: Events, batch: int) -> list[bytes]:
    """One COPY input for each batch. Subjects and series are numbered like in ingest's dictionaries."""
    return [
        _buffer(events[start : start + batch], number)
        for number, start in enumerate(range(0, len(events), batch))
    ]


def _buffer(events: Events, number: int) -> bytes:
    return event_rows(
        events.ids.reshape(-1).view("V16"),
        np.full(len(events), number),
        events.tenants << 20 | events.subjects,
        events.occurred_at_ms * 1000,
        [Slot(events.units, None), *(None for _ in range(MAX_QUANTITIES - 1))],
        events.tenants,
        events.tenants * REGIONS + events.regions,
    )


async def _prepare(data: dict[str, Any]) -> pipes.Run:
    order = CopyOrder(**data | {"workload": Workload(**data["workload"])})
    batches = max(1, order.events // order.batch)
    events = generate(order.workload, batches, order.batch, time.time_ns() // 1_000_000, order.seed)
    waiting = iter(list(enumerate(buffers(events, order.batch))))
    connections = [
        await psycopg.AsyncConnection.connect(order.dsn, autocommit=True, options=f"-c search_path={SCHEMA}")
        for _ in range(order.connections)
    ]

    async def run() -> dict[str, Any]:
        before, started = os.times(), time.monotonic()
        deadline = started + order.seconds
        done: list[int] = []
        statement = sql.SQL(queries.copy_events).format(partition=sql.Identifier("events"))

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            while time.monotonic() < deadline and (following := next(waiting, None)) is not None:
                at, buffer = following
                async with connection.cursor().copy(statement) as copy:
                    await copy.write(buffer)
                done.append(at)

        await asyncio.gather(*(work(connection) for connection in connections))
        finished, after = time.monotonic(), os.times()
        units = sum(
            int(events.units[at * order.batch : (at + 1) * order.batch].sum(dtype=np.int64)) for at in done
        )
        for connection in connections:
            await connection.close()
        return {
            "started": started,
            "finished": finished,
            "accepted": len(done) * order.batch,
            "units": units,
            "exhausted": len(done) == batches,
            "cpu_seconds": after.user + after.system - before.user - before.system,
        }

    return run


if __name__ == "__main__":
    pipes.serve(_prepare)
