"""After corrections the tables equal a fold of the remaining events only."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_protos.events.v1 import events_pb2

from tests.support.aggregate import METERS, Event, expected_usage, some_events
from tests.support.aggregate_tables import Tables
from tests.support.databases import TestDatabase
from tests.support.raw_events import History, Kept, serving

pytestmark = pytest.mark.req("T3.4", "T1.6", "T3.2")

# New York's clocks change and a month ends in this time; Kolkata's months begin at half past an hour of UTC.
START = datetime(2026, 10, 30, 5, tzinfo=UTC)
SPAN = timedelta(days=4)
ZONES = ("America/New_York", "Asia/Kolkata")
# Events per answer of ingest: a rebuild reads several pages, or one.
PAGE_LIMITS = (3, 7, 1000)

_numbers = itertools.count(1)


def corrected(history: History, tenant: int, order: random.Random) -> list[events_pb2.EventsAccepted]:
    """Messages of a tenant: events, amendments and retractions, some of amended events."""
    facts = []
    events = some_events(tenant, order.randint(5, 40), seed=order.randint(0, 10**6), start=START, span=SPAN)
    while events:
        size = order.randint(1, 12)
        facts.append(history.accept(events[:size]))
        events = events[size:]
    for _ in range(order.randint(1, 12)):
        if not history.left:
            break
        retracted = order.sample(history.left, min(len(history.left), order.randint(1, 3)))
        added = [amended(kept, order) for kept in retracted if order.random() < 0.5]
        facts.append(history.accept(added, retracted))
    return facts


def amended(kept: Kept, order: random.Random) -> Event:
    event = kept.event
    if order.random() < 0.5:
        event = replace(event, time=event.time + timedelta(minutes=order.randint(-600, 600)))
    if order.random() < 0.5 and "miles" in event.quantities:
        event = replace(event, quantities={"miles": str(Decimal(order.randint(-(10**6), 10**6)).scaleb(-3))})
    if order.random() < 0.3:
        event = replace(event, subject=f"N{order.randint(0, 12)}")
    return event


QUERY = """
SELECT m.name, w.grain, w.window_start, coalesce(g.dimensions, '{}'), w.event_count,
       coalesce(w.value, CASE m.aggregation WHEN 1 THEN w.event_count ELSE 0 END)
FROM windows w
JOIN meters m USING (meter_id)
LEFT JOIN dimension_groups g USING (tenant_id, group_id)
WHERE w.tenant_id = %s
"""

# Unique counts that differ from the number of their members.
MISCOUNTED = """
SELECT w.meter_id, w.grain, w.window_start, w.group_id
FROM windows w
JOIN meters m USING (meter_id)
LEFT JOIN window_members s USING (tenant_id, meter_id, grain, window_start, group_id)
WHERE w.tenant_id = %s AND m.aggregation = 4
GROUP BY w.meter_id, w.grain, w.window_start, w.group_id, w.value
HAVING w.value <> count(s.member)
"""

Found = dict[tuple[Any, ...], tuple[Decimal, int]]


def stored(database: TestDatabase, tenant: int) -> Found:
    """Value and events of every window; of windows without events the values must be 0."""
    rows = database.read("aggregate", QUERY, tenant)
    assert database.read("aggregate", MISCOUNTED, tenant) == []
    found = {}
    for name, grain, start, dimensions, count, value in rows:
        if not count:
            assert value == 0, (name, grain, start, dimensions)
            continue
        found[name, grain, start, tuple(sorted(dimensions.items()))] = (value, count)
    return found


def expected(events: Sequence[Event], zone: str) -> Found:
    found: Found = {}
    for one in METERS:
        for grain in (1, 2, 3, 4):
            for by_group in (False, True) if one.group_by else (False,):
                usage = expected_usage(one, events, zone, grain, by_group=by_group)  # type: ignore[arg-type]
                for (start, group), numbers in usage.items():
                    found[one.name, grain, start, group] = numbers
    return found


def test_corrections_fold_independently_of_order_and_batching(database: TestDatabase) -> None:
    """All examples share a loop, an ingest and an aggregate; each example is a new tenant."""
    history = History({})
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        address = runner.run(stack.enter_async_context(serving(history)))
        tables = runner.run(stack.enter_async_context(Tables(database.app_dsn("aggregate"), address)))
        # Meters count events accepted after their creation.
        runner.run(tables.create_meters())

        @given(st.integers(0, 2**32), st.sampled_from(ZONES))
        @settings(max_examples=12, deadline=None)
        def check(seed: int, zone: str) -> None:
            runner.run(_check(database, tables, history, random.Random(seed), zone))

        try:
            check()
        finally:
            runner.run(stack.aclose())


async def _check(
    database: TestDatabase, tables: Tables, history: History, order: random.Random, zone: str
) -> None:
    number = next(_numbers)
    history.reset({number: f"tenant-{number}"}, page_limit=order.choice(PAGE_LIMITS))
    facts = corrected(history, number, order)
    order.shuffle(facts)
    await tables.onboard(number, f"tenant-{number}", zone)
    while facts:
        size = order.randint(1, 5)
        await tables.handle(facts[:size])
        facts = facts[size:]
        if order.random() < 0.2:
            await tables.rebuild_now()
    await tables.rebuild_now()
    for table in ("pending_rebuilds", "rebuilt_batches", "rebuilt_windows", "rebuilt_members"):
        rows = f"SELECT count(*) FROM {table} WHERE tenant_id = %s"
        assert database.read("aggregate", rows, number) == [(0,)], table
    total = "SELECT coalesce(sum(aggregated), 0) FROM tenant_totals WHERE tenant_id = %s"
    assert database.read("aggregate", total, number) == [(len(history.left),)]
    assert stored(database, number) == expected(history.events(), zone)
