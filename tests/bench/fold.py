"""Benchmark of aggregate: the fold alone against its plain implementation, and the fold with its writes.

Run it as `python -m tests.bench.fold`. Times are CPU microseconds an event, of this process and of Postgres
(durable, as in production), nearly independent of other load; events/s are of one core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import psycopg
import uvloop
from meterline import migrate
from meterline.clock import SystemClock
from meterline.consuming.delivery import Delivery
from meterline.db import provision
from meterline.db.pool import Database
from meterline.ids import new_id
from meterline.tenants import TenantReplica
from meterline.transactions import inbox
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_aggregate.folding.consumer import AcceptedEvents
from meterline_aggregate.folding.decoding import decode
from meterline_aggregate.folding.rules.changes import Changes
from meterline_aggregate.folding.rules.plain import fold_plain
from meterline_aggregate.folding.rules.rows import Message, Series, Target
from meterline_aggregate.folding.rules.vectors import fold_vectors
from meterline_aggregate.folding.series import SeriesBook
from meterline_aggregate.kinds.kind import Aggregation
from meterline_aggregate.kinds.table import kind_of
from meterline_aggregate.meters.rules.definitions import Definition
from meterline_aggregate.meters.service import Meters
from meterline_dev import procstat
from meterline_dev.servers import PostgresServer
from meterline_dev.testing import scratch_directory
from meterline_protos.events.v1 import events_pb2

TENANTS = 50
VALUES = 20
CONSUMER = "aggregate-events"
PASSWORD = "for-the-benchmark-only"
OF_ALL_TENANTS = "-c meterline.tenant_ids=*"
ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Europe/London")


@dataclass(frozen=True)
class Shape:
    """Messages of one batch each; event times lie within `spread` seconds."""

    rows: int
    messages_a_transaction: int
    spread: int = 10
    unique: bool = False


SHAPES = (
    Shape(5000, 1),
    Shape(5000, 4),
    Shape(5000, 16),
    Shape(5000, 64),
    Shape(1000, 4),
    Shape(1000, 16),
    Shape(100, 16),
    Shape(1, 64),
    Shape(5000, 4, spread=3600),
    Shape(5000, 4, unique=True),
)

DIMENSIONS = [events_pb2.Dimension(name="region", value=f"region-{n}") for n in range(VALUES)]


def payloads(shape: Shape, count: int, seed: int) -> Iterator[bytes]:
    """Messages of tenants in rotation, each a tenth of a second later than the previous one."""
    random = np.random.default_rng(seed)
    rows = shape.rows
    begin = SystemClock().now_us() - 60_000_000
    for number in range(count):
        tenant = number % TENANTS + 1
        values, value_of_row = np.unique(random.integers(0, VALUES, rows), return_inverse=True)
        fact = events_pb2.EventsAccepted(
            batches=[
                events_pb2.AcceptedBatch(
                    batch_id=new_id().bytes, rows=rows, received_at_us=SystemClock().now_us()
                )
            ],
            series=[
                events_pb2.Series(tenant_id=tenant, event_type="request", dimensions=[DIMENSIONS[value]])
                for value in values
            ],
            subjects=[f"subject-{n}" for n in range(100)],
            event_ids=random.bytes(16 * rows),
            series_index=value_of_row.astype("<u4").tobytes(),
            subject_index=random.integers(0, 100, rows).astype("<u4").tobytes(),
            times_us=(begin + number * 100_000 + random.integers(0, shape.spread * 10**6, rows))
            .astype("<i8")
            .tobytes(),
            quantities=[
                events_pb2.QuantityValues(
                    name="bytes", scale=2, units=random.integers(0, 10**8, rows).astype("<i8").tobytes()
                )
            ],
        )
        yield fact.SerializeToString()


def chunks(payloads_: Sequence[bytes], size: int) -> list[list[bytes]]:
    return [list(payloads_[begin : begin + size]) for begin in range(0, len(payloads_), size)]


# --- folding alone


def messages(shape: Shape, group: Sequence[bytes]) -> list[Message]:
    found = []
    for data in group:
        accepted = decode(data)
        names = [series.dimensions[0].value for series in accepted.fact.series]
        own = SERIES[accepted.fact.series[0].tenant_id]
        found.append(accepted.with_series([own[int(name.rpartition("-")[2])] for name in names]))
    return found


def _series(tenant: int) -> list[Series]:
    return [
        Series(
            tenant,
            ZONES[tenant % len(ZONES)],
            tuple(
                Target(meter_id, kind_of(aggregation).slot, group_id, measure)
                for meter_id, aggregation, measure in (
                    (1, Aggregation.COUNT, ""),
                    (2, Aggregation.SUM, "bytes"),
                )
                for group_id in (0, tenant * VALUES + value + 1)
            ),
        )
        for value in range(VALUES)
    ]


SERIES = {tenant: _series(tenant) for tenant in range(1, TENANTS + 1)}


def time_fold(work: Callable[[Sequence[Message]], Changes], groups: Sequence[Sequence[Message]]) -> float:
    """The lowest CPU microseconds an event over the groups."""
    best = float("inf")
    for group in groups:
        begin = time.process_time()
        work(group)
        best = min(best, (time.process_time() - begin) / sum(map(len, group)) * 1e6)
    return best


def bench_fold() -> None:
    print(
        f"{'folding alone':38} {'us/event':>9} {'events/s':>12} {'plain us':>9} {'ratio':>7} {'windows':>8}"
    )
    for shape in SHAPES:
        if shape.unique:
            continue
        size = shape.messages_a_transaction
        data = list(payloads(shape, min(256, size * 8), seed=1))
        groups = [messages(shape, group) for group in chunks(data, size)]
        fast = time_fold(fold_vectors, groups)
        # The plain fold takes seconds for a transaction; its cost an event does not depend on their number.
        slow = time_fold(fold_plain, [groups[0][: max(1, 2000 // shape.rows)]])
        windows = len(fold_vectors(groups[0]).windows)
        print(f"{name(shape):38} {fast:9.3f} {1e6 / fast:12,.0f} {slow:9.1f} {slow / fast:7.0f} {windows:8}")


def name(shape: Shape) -> str:
    text = f"{shape.messages_a_transaction} x {shape.rows} events"
    if shape.spread != 10:
        text += f" over {shape.spread} s"
    return text + (", unique subjects" if shape.unique else "")


# --- the whole handler on Postgres


async def bench_handler(server: PostgresServer) -> None:
    print(
        f"\n{'handler and commit':38} {'python us':>9} {'pg us':>7} {'ms a tx':>8} {'WAL B/event':>11}"
        f" {'events/s (wall)':>16}"
    )
    for shape in SHAPES:
        dsn = prepare(server)
        database = Database(dsn, size=2)
        await database.start()
        try:
            await _bench_shape(server, database, dsn, shape)
        finally:
            await database.stop()


async def _bench_shape(server: PostgresServer, database: Database, dsn: str, shape: Shape) -> None:
    unit_of_work = UnitOfWork(database, lambda: None)
    meters = Meters(database, unit_of_work, TenantReplica(database))
    await _create_meters(meters, unique=shape.unique)
    handler = AcceptedEvents(SystemClock(), SeriesBook(), lambda: None)
    size = shape.messages_a_transaction
    transactions = max(4, min(60, 1_500_000 // (shape.rows * size)))
    # First every tenant once, so that series and groups are known as in steady state.
    warm = -(-TENANTS // size)
    data = list(payloads(shape, size * (warm + transactions), seed=2))
    groups = [
        [Delivery(new_id(), "events.accepted.0", payload) for payload in group]
        for group in chunks(data, size)
    ]
    for group in groups[:warm]:
        await handle(unit_of_work, handler, group)
    before = server.cpu_seconds(), time.process_time(), wal(dsn)
    begin = time.perf_counter()
    for group in groups[warm:]:
        await handle(unit_of_work, handler, group)
    wall = time.perf_counter() - begin
    after = server.cpu_seconds(), time.process_time(), wal(dsn)
    events = shape.rows * size * transactions
    postgres, python, written = (end - start for end, start in zip(after, before, strict=True))
    print(
        f"{name(shape):38} {python / events * 1e6:9.3f} {postgres / events * 1e6:7.3f}"
        f" {wall / transactions * 1e3:8.1f} {written / events:11.1f} {events / wall:16,.0f}"
    )
    total = check(dsn)
    assert total == events + shape.rows * size * warm, "events were lost or duplicated"


async def handle(unit_of_work: UnitOfWork, handler: AcceptedEvents, group: Sequence[Delivery]) -> None:
    """One transaction, as in the consumer."""
    async with unit_of_work.begin() as transaction:
        await inbox.register(transaction.connection, CONSUMER, [one.message_id for one in group])
        await handler.handle(transaction, group)
        await transaction.commit()


async def _create_meters(meters: Meters, *, unique: bool) -> None:
    by_region = ("region",)
    await meters.create(Definition("requests", "request", Aggregation.COUNT, group_by=by_region))
    await meters.create(Definition("bytes", "request", Aggregation.SUM, "bytes", group_by=by_region))
    if unique:
        await meters.create(Definition("subjects", "request", Aggregation.UNIQUE))


def prepare(server: PostgresServer) -> str:
    """Creates a database with the tenants; returns its address."""
    database = f"fold_{new_id().hex}"
    server.create_database(database)
    roles = [role(one) for one in provision.SERVICES for role in (provision.owner_role, provision.app_role)]
    provision.provision(server.dsn(database), dict.fromkeys(roles, PASSWORD))
    owner = server.dsn(database, provision.owner_role("aggregate"), PASSWORD)
    migrate.apply(owner, "aggregate", migrate.for_service("aggregate"))
    dsn = server.dsn(database, provision.app_role("aggregate"), PASSWORD)
    with psycopg.connect(dsn, options=OF_ALL_TENANTS) as connection:
        for tenant, zone in islice(zip(range(1, TENANTS + 1), cycle(ZONES), strict=False), TENANTS):
            connection.execute(
                "INSERT INTO tenants VALUES (%s, %s, 1, %s, 'USD', 'p', 'c', 's', true, '10 minutes', now())",
                (tenant, f"tenant-{tenant}", zone),
            )
    return dsn


def wal(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])


def check(dsn: str) -> int:
    """Events in the months of the counting meter."""
    with psycopg.connect(dsn, options=OF_ALL_TENANTS) as connection:
        row = connection.execute(
            "SELECT sum(event_count) FROM windows JOIN meters USING (meter_id)"
            " WHERE grain = 4 AND group_id = 0 AND name = 'requests'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def main() -> None:
    bench_fold()
    with scratch_directory() as place, PostgresServer(place / "postgres") as server:
        uvloop.run(bench_handler(server))
    print(f"\nmemory of this process: {procstat.rss_bytes(os.getpid()) >> 20} MB")


if __name__ == "__main__":
    main()
