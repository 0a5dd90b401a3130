"""Events with any values within the accepted bounds are counted, published and billed, in every time zone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.bounds import (
    EARLIEST_US,
    LATEST_US,
    MAX_SCALE,
    MAX_UNITS,
    MAX_VALUE_DIGITS,
    MIN_UNITS,
)
from meterline.bus.subjects import EVENTS_ACCEPTED, TENANTS_CHANGED, USAGE_WINDOW
from meterline.clock import SystemClock, to_datetime, to_us
from meterline.consuming.delivery import Delivery
from meterline.db.pool import Database
from meterline.ids import new_id
from meterline.tenants import TenantReplica
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_aggregate.announcing.announcer import MonthAnnouncer
from meterline_aggregate.folding.consumer import AcceptedEvents
from meterline_aggregate.folding.series import SeriesBook
from meterline_aggregate.kinds.kind import Aggregation
from meterline_aggregate.meters.rules.definitions import Definition
from meterline_aggregate.meters.service import Meters
from meterline_aggregate.usage.api import UsageServicer
from meterline_aggregate.usage.service import Usage
from meterline_protos.aggregate.v1 import usage_pb2
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2
from meterline_publisher.usage.replica import UsageWindows

from tests.support.aggregate import time_range
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("K3", "T2.2", "T1.6")

# Offsets of +14 and -12 hours, of half hours and odd seconds; zones that skipped or repeated a day.
ZONES = (
    "Etc/GMT-14",
    "Etc/GMT+12",
    "UTC",
    "America/New_York",
    "Asia/Kolkata",
    "Africa/Monrovia",
    "Pacific/Kiritimati",
    "Pacific/Apia",
    "Europe/Dublin",
    "Africa/Casablanca",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Asia/Kathmandu",
)

DAY_US = 86_400_000_000
TIMES = st.one_of(
    st.sampled_from(
        [EARLIEST_US, EARLIEST_US + 1, LATEST_US - 1, LATEST_US - DAY_US, LATEST_US - 32 * DAY_US]
    ),
    st.sampled_from([to_us(datetime(8999, 12, 1, hour, tzinfo=UTC)) for hour in (0, 11, 13)]),
    st.integers(EARLIEST_US, EARLIEST_US + 40 * DAY_US),
    st.integers(LATEST_US - 40 * DAY_US, LATEST_US - 1),
    st.integers(EARLIEST_US, LATEST_US - 1),
)
UNITS = st.one_of(
    st.sampled_from([MIN_UNITS, MAX_UNITS, MIN_UNITS + 1, 0, 1, -1]), st.integers(MIN_UNITS, MAX_UNITS)
)
SCALES = st.sampled_from([0, 1, 9, MAX_SCALE])
TEXTS = st.one_of(
    st.sampled_from(["", "\0", "a\0b", "\N{GRINNING FACE}" * 256, "\\", '"', "{}", "\x7f\r\n"]),
    st.text(max_size=20),
)


@dataclass(frozen=True)
class Row:
    time_us: int
    units: int
    scale: int
    subject: str
    origin: str


ROWS = st.builds(Row, TIMES, UNITS, SCALES, TEXTS, TEXTS)
# Small messages are folded row by row, larger ones in columns.
MESSAGES = st.lists(st.tuples(SCALES, st.lists(ROWS, min_size=1, max_size=30)), min_size=1, max_size=3).map(
    lambda found: [
        [Row(r.time_us, r.units, scale, r.subject, r.origin) for r in rows] for scale, rows in found
    ]
)

METERS = (
    Definition("events", "flight", Aggregation.COUNT, group_by=("origin",)),
    Definition("sum", "flight", Aggregation.SUM, "q", group_by=("origin",)),
    Definition("most", "flight", Aggregation.MAX, "q"),
    Definition("subjects", "flight", Aggregation.UNIQUE),
    Definition("origins", "flight", Aggregation.UNIQUE, unique_dimension="origin"),
)

_numbers = itertools.count(1)


def message(tenant: int, rows: Sequence[Row]) -> bytes:
    """A message with one batch; all rows must have the same scale."""
    origins = [row.origin for row in rows]
    return events_pb2.EventsAccepted(
        batches=[
            events_pb2.AcceptedBatch(batch_id=new_id().bytes, rows=len(rows), received_at_us=-(1 << 63))
        ],
        series=[
            events_pb2.Series(
                tenant_id=tenant,
                event_type="flight",
                dimensions=[events_pb2.Dimension(name="origin", value=origin)],
            )
            for origin in origins
        ],
        subjects=[row.subject for row in rows],
        event_ids=bytes(16 * len(rows)),
        series_index=np.arange(len(rows), dtype="<u4").tobytes(),
        subject_index=np.arange(len(rows), dtype="<u4").tobytes(),
        times_us=np.array([row.time_us - LATEST_US for row in rows], "<i8").tobytes(),
        base_us=LATEST_US,
        quantities=[
            events_pb2.QuantityValues(
                name="q", scale=rows[0].scale, units=np.array([row.units for row in rows], "<i8").tobytes()
            )
        ],
    ).SerializeToString()


def value_of(row: Row) -> Fraction:
    return Fraction(row.units, 10**row.scale)


# The expected value of each meter over some rows.
VALUES: dict[str, Callable[[Sequence[Row]], Fraction]] = {
    "events": lambda rows: Fraction(len(rows)),
    "sum": lambda rows: sum(map(value_of, rows), Fraction(0)),
    "most": lambda rows: max(map(value_of, rows)),
    "subjects": lambda rows: Fraction(len({row.subject for row in rows})),
    "origins": lambda rows: Fraction(len({row.origin for row in rows})),
}


def counted(meter: str, rows: Sequence[Row]) -> list[Row]:
    """The rows that the meter counts: unique counts ignore empty values."""
    if meter in ("subjects", "origins"):
        return [row for row in rows if getattr(row, meter.removesuffix("s"))]
    return list(rows)


class World:
    """Aggregate and publisher without consumers: the test passes messages from one to the other."""

    def __init__(self, database: TestDatabase) -> None:
        self.test_database = database
        self.database = Database(database.app_dsn("aggregate"), size=4)
        self.bills = Database(database.app_dsn("publisher"), size=2)
        self.unit_of_work = UnitOfWork(self.database, lambda: None)
        self.tenants = TenantReplica(self.database)
        self.accepted = AcceptedEvents(SystemClock(), SeriesBook(), lambda: None)
        self.usage = UsageServicer(Usage(self.database, self.tenants), cast("Any", None))

    async def __aenter__(self) -> World:
        await self.database.start()
        await self.bills.start()
        for one in METERS:
            await Meters(self.database, self.unit_of_work, self.tenants).create(one)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bills.stop()
        await self.database.stop()

    async def onboard(self, tenant: int, zone: str) -> None:
        fact = events_pb2.TenantChanged(tenant_id=tenant, slug=f"tenant-{tenant}", version=1, time_zone=zone)
        async with self.unit_of_work.begin() as tx:
            change = Delivery(new_id(), TENANTS_CHANGED.subject, fact.SerializeToString())
            await self.tenants.handle(tx, [change])
            await tx.commit()

    async def apply(self, *messages: bytes) -> None:
        deliveries = [Delivery(new_id(), EVENTS_ACCEPTED.subject, data) for data in messages]
        async with self.unit_of_work.begin() as tx:
            await self.accepted.handle(tx, deliveries)
            await tx.commit()

    async def windows(self, tenant: int, meter: str, grain: Any, *, by_group: bool) -> list[usage_pb2.Window]:
        request = usage_pb2.QueryUsageRequest(
            tenant_id=f"tenant-{tenant}",
            meter=meter,
            grain=grain,
            range=time_range(datetime(1969, 1, 1, tzinfo=UTC), datetime(9001, 1, 1, tzinfo=UTC)),
            by_group=by_group,
            page_size=1_000,
        )
        return list((await self.usage.QueryUsage(request, cast("Any", None))).windows)

    async def bill(self) -> None:
        """Announces changed months, and passes the messages to publisher."""
        await MonthAnnouncer(self.unit_of_work).announce()
        payloads = self.test_database.read("aggregate", "DELETE FROM outbox RETURNING payload")
        deliveries = [Delivery(new_id(), USAGE_WINDOW.subject, payload) for (payload,) in payloads]
        async with UnitOfWork(self.bills, lambda: None).begin() as tx:
            await UsageWindows(SystemClock(), timedelta(days=3)).handle(tx, deliveries)
            await tx.commit()

    def billed(self, tenant: int, meter: str) -> list[tuple[datetime, datetime, Decimal, int]]:
        return self.test_database.read(
            "publisher",
            "SELECT period_start, period_end, value, event_count FROM usage"
            " WHERE tenant_id = %s AND meter = %s ORDER BY 1",
            tenant,
            meter,
        )


@pytest.fixture
def database(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    return make_database("aggregate", "publisher")


def test_events_within_bounds_are_counted_and_billed(database: TestDatabase) -> None:
    """All examples share one aggregate and one publisher; each example is a new tenant."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        world = runner.run(stack.enter_async_context(World(database)))

        @given(st.sampled_from(ZONES), MESSAGES, st.booleans())
        @settings(max_examples=40, deadline=None)
        def check(zone: str, messages: list[list[Row]], together: bool) -> None:
            runner.run(_check(world, zone, messages, together=together))

        try:
            check()
        finally:
            runner.run(stack.aclose())


async def _check(world: World, zone: str, messages: list[list[Row]], *, together: bool) -> None:
    tenant = next(_numbers)
    await world.onboard(tenant, zone)
    facts = [message(tenant, rows) for rows in messages]
    for some in [facts] if together else [[fact] for fact in facts]:
        await world.apply(*some)
    await world.bill()
    rows = [row for rows in messages for row in rows]
    for meter in VALUES:
        mine = counted(meter, rows)
        for grain in (1, 2, 3, 4):
            check_windows(meter, mine, await world.windows(tenant, meter, grain, by_group=False))
        months = await world.windows(tenant, meter, types_pb2.GRAIN_MONTH, by_group=False)
        check_months(meter, mine, months, zone)
        published = [
            (
                one.start_time.ToDatetime(UTC),
                one.end_time.ToDatetime(UTC),
                Decimal(one.value),
                one.event_count,
            )
            for one in months
        ]
        assert world.billed(tenant, meter) == published
    for meter in ("events", "sum"):
        found = await world.windows(tenant, meter, types_pb2.GRAIN_MONTH, by_group=True)
        by_origin = {row.origin for row in rows}
        assert {window.group["origin"] for window in found} == by_origin
        assert sum(window.event_count for window in found) == len(rows)


def check_windows(meter: str, rows: Sequence[Row], found: Sequence[usage_pb2.Window]) -> None:
    """Checks that every event lies in one window, and that each window has the value of its events."""
    left = sorted(rows, key=lambda row: row.time_us)
    for window in found:
        start, end = to_us(window.start_time.ToDatetime(UTC)), to_us(window.end_time.ToDatetime(UTC))
        inside = [row for row in left if start <= row.time_us < end]
        left = [row for row in left if not start <= row.time_us < end]
        assert window.event_count == len(inside)
        assert Fraction(window.value) == VALUES[meter](inside)
        assert len(window.value.lstrip("-").partition(".")[0]) <= MAX_VALUE_DIGITS
    assert left == []


def check_months(meter: str, rows: Sequence[Row], found: Sequence[usage_pb2.Window], zone: str) -> None:
    """Checks that there is one window for each local month with events."""
    months = {
        (local.year, local.month)
        for local in (to_datetime(row.time_us).astimezone(ZoneInfo(zone)) for row in rows)
    }
    starts = [window.start_time.ToDatetime(UTC).astimezone(ZoneInfo(zone)) for window in found]
    assert sorted((start.year, start.month) for start in starts) == sorted(months)
