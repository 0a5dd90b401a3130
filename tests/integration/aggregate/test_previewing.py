"""Previews report the exact windows after a change, and store nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import psycopg
import pytest
from grpc import aio
from meterline_aggregate.usage import preview as previewing
from meterline_dev.servers import NatsServer
from meterline_protos.aggregate.v1 import meters_pb2, usage_pb2
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2

from tests.support.aggregate import (
    METERS,
    Event,
    Feed,
    Node,
    accepted,
    expected_usage,
    rebuilt,
    running_aggregate,
    some_events,
)
from tests.support.databases import TestDatabase
from tests.support.raw_events import History, serving

pytestmark = pytest.mark.req("T3.4")

ZONE = "Asia/Kolkata"
NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
START, SPAN = NOON - timedelta(days=2), timedelta(days=4)
GRAINS = (types_pb2.GRAIN_DAY, types_pb2.GRAIN_MONTH)

TABLES = ("windows", "window_members", "contributions", "dimension_groups", "pending_rebuilds", "retractions")


@asynccontextmanager
async def corrected_node(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History
) -> AsyncIterator[Node]:
    async with (
        serving(history) as address,
        running_aggregate(database, broker, ingest_address=address, reconcile_seconds=3600) as node,
    ):
        await node.create(*METERS)
        await feed.onboard(1, "acme", ZONE)
        await feed.onboard(2, "globex", ZONE)
        yield node


@pytest.fixture
def history() -> History:
    return History({1: "acme"})


async def preview(node: Node, fact: events_pb2.EventsAccepted | bytes) -> list[usage_pb2.WindowPreview]:
    events = fact if isinstance(fact, bytes) else fact.SerializeToString()
    request = usage_pb2.PreviewChangesRequest(tenant_id="acme", events=events)
    return list((await node.usage.PreviewChanges(request)).windows)


def numbers(
    meter: meters_pb2.Meter, events: list[Event], window: usage_pb2.WindowPreview
) -> tuple[Decimal, int]:
    start = window.start_time.ToDatetime(UTC)
    found = expected_usage(meter, events, ZONE, window.grain, by_group=False)
    return found.get((start, ()), (Decimal(0), 0))


def stored(database: TestDatabase) -> list[object]:
    with psycopg.connect(database.admin_dsn) as connection:
        return [
            connection.execute(f"SELECT * FROM aggregate.{table} t ORDER BY t::text").fetchall()
            for table in TABLES
        ]


@pytest.mark.parametrize("limit", [1_000, 7])
async def test_preview_reports_every_changed_window(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History, limit: int
) -> None:
    history.page_limit = limit
    async with corrected_node(database, broker, feed, history) as node:
        for seed in range(3):
            await feed.publish(history.accept(some_events(1, 20, seed=seed, start=START, span=SPAN)))
        await feed.publish(history.accept([], history.left[5:8]))
        await feed.settled()
        await rebuilt(database)
        before, kept = stored(database), list(history.left)
        retracted = history.left[:6]
        added = [replace(kept.event, quantities={"miles": "7.5"}) for kept in retracted[:3]]
        added.append(
            Event(1, NOON, subject="new", dimensions={"origin": "SFO"}, quantities={"miles": "10000000"})
        )
        rows = list(history.rows)
        fact = history.accept(added, retracted)
        history.rows = rows  # the change is previewed, not published
        found = await preview(node, fact)
        assert stored(database) == before
    meters = {meter.name: meter for meter in METERS}
    assert {window.meter for window in found} == set(meters)
    order = [(window.meter, window.grain, window.start_time.seconds) for window in found]
    assert order == sorted(set(order))
    for window in found:
        was = numbers(meters[window.meter], [one.event for one in kept], window)
        becomes = numbers(meters[window.meter], history.events(), window)
        assert (Decimal(window.value_before), window.event_count_before) == was, window
        assert (Decimal(window.value_after), window.event_count_after) == becomes, window
        assert Decimal(window.value_delta) == becomes[0] - was[0]
        assert not window.needs_rebuild


async def test_preview_marks_windows_that_need_a_rebuild(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with corrected_node(database, broker, feed, history) as node:
        await feed.publish(history.accept([Event(1, NOON, quantities={"miles": str(n)}) for n in range(5)]))
        await feed.settled()
        rows = list(history.rows)
        fact = history.accept([], history.left[-1:])
        history.rows = rows
        monkeypatch.setattr(previewing, "MOST_EVENTS", 4)
        months = {w.meter: w for w in await preview(node, fact) if w.grain == types_pb2.GRAIN_MONTH}
        for name in ("longest", "aircraft"):
            assert months[name].needs_rebuild
            assert (months[name].value_after, months[name].value_delta) == ("", "")
            assert (months[name].event_count_before, months[name].event_count_after) == (5, 4)
        assert (months["miles"].value_before, months["miles"].value_delta) == ("10", "-4")
        monkeypatch.setattr(previewing, "MOST_EVENTS", 5)
        months = {w.meter: w for w in await preview(node, fact) if w.grain == types_pb2.GRAIN_MONTH}
        assert (months["longest"].value_before, months["longest"].value_after) == ("4", "3")
        # If ingest does not list the counted events, the values are unknown.
        history.rows.clear()
        months = {w.meter: w for w in await preview(node, fact) if w.grain == types_pb2.GRAIN_MONTH}
        assert months["longest"].needs_rebuild


@pytest.mark.req("T4.1")
async def test_invalid_previews_are_refused(
    database: TestDatabase, broker: NatsServer, feed: Feed, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previewing, "MOST_ROWS", 3)
    mine, theirs = Event(1, NOON), Event(2, NOON)
    excess_retractions = accepted([mine])
    excess_retractions.batches[0].retracted = 2
    async with corrected_node(database, broker, feed, history) as node:
        # The message is settled only after the tenant is known.
        await feed.publish(history.accept([mine]))
        await feed.settled()
        for fact, rule in (
            (b"\xff", "not an EventsAccepted"),
            (accepted(), "no batches"),
            (excess_retractions, "a batch retracts more rows than it has"),
            (accepted([mine, theirs]), "all rows must be of the tenant"),
            (accepted([mine] * 4), "at most 3 rows"),
        ):
            with pytest.raises(aio.AioRpcError, match=rule) as raised:
                await preview(node, fact)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(aio.AioRpcError) as raised:
            await node.usage.PreviewChanges(usage_pb2.PreviewChangesRequest(tenant_id="nobody"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
