"""Changed months are published with absolute values, once for each change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import psycopg
import pytest
from meterline.bus.subjects import USAGE_WINDOW
from meterline_aggregate.announcing import announcer
from meterline_dev.servers import NatsServer
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2

from tests.support.aggregate import METERS, Event, Feed, Node, accepted, meter, running_aggregate, some_events
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("S4", "T3.1")

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
TRACE = types_pb2.TraceContext(
    trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331", sampled=True
)


async def published(feed: Feed) -> list[events_pb2.UsageWindow]:
    """All windows that were published, in order."""
    manager = feed.bus.client.jsm()
    state = (await manager.stream_info(USAGE_WINDOW.stream)).state
    found: list[events_pb2.UsageWindow] = []
    for sequence in range(1, state.last_seq + 1):
        message = await manager.get_msg(USAGE_WINDOW.stream, sequence)
        found += events_pb2.UsageWindowsChanged.FromString(message.data or b"").windows
    return found


async def wait_for_windows(feed: Feed, expected: int) -> list[events_pb2.UsageWindow]:
    """Waits until that many windows were published; returns all of them."""

    async def look() -> int:
        return len(await published(feed))

    await eventually(look, until=lambda number: number >= expected)
    return await published(feed)


async def test_month_is_published_once_for_each_change(node: Node, feed: Feed) -> None:
    announce = node.service.announcer.announce
    await node.create(*METERS)
    await feed.onboard(1, "acme", "America/New_York")
    assert await announce() == 0
    events = some_events(1, 40, seed=1, start=NOON, span=NOON - NOON.replace(hour=9))
    await feed.publish(accepted(events, trace=TRACE))
    await feed.settled()
    # Queries answer the unpublished month with the content of the later message.
    (queried,) = await node.windows("acme", METERS[0].name, types_pb2.GRAIN_MONTH)
    assert (queried.aggregation, queried.trace, queried.rebuilding) == (METERS[0].aggregation, TRACE, False)
    assert await announce() == len(METERS)
    assert await announce() == 0
    (queried,) = await node.windows("acme", METERS[0].name, types_pb2.GRAIN_MONTH)
    assert (queried.aggregation, queried.trace) == (METERS[0].aggregation, types_pb2.TraceContext())
    windows = {window.meter: window for window in await wait_for_windows(feed, len(METERS))}
    for one in METERS:
        (seen,) = await node.windows("acme", one.name, types_pb2.GRAIN_MONTH)
        assert windows[one.name] == events_pb2.UsageWindow(
            tenant_id=1,
            meter=one.name,
            start_time=seen.start_time,
            end_time=seen.end_time,
            value=seen.value,
            event_count=seen.event_count,
            revision=seen.revision,
            aggregation=one.aggregation,
            trace=TRACE,
        )
    assert windows["departures"].end_time.ToDatetime(UTC) == datetime(2026, 12, 1, 5, tzinfo=UTC)
    await feed.publish(accepted([Event(1, NOON, quantities={"miles": "0.5"})]))
    await feed.settled()
    assert await announce() == 4
    later = (await wait_for_windows(feed, len(METERS) + 4))[len(METERS) :]
    assert {window.meter for window in later} == {"departures", "miles", "longest", "aircraft"}
    for window in later:
        assert window.revision == windows[window.meter].revision + 1
        assert window.trace == types_pb2.TraceContext()
    (miles,) = [window for window in later if window.meter == "miles"]
    assert Decimal(miles.value) == Decimal(windows["miles"].value) + Decimal("0.5")


@pytest.mark.req("S11")
async def test_announcer_writes_nothing_without_changes(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    await feed.onboard(1, "acme")
    await feed.publish(accepted([Event(1, NOON)]))
    await feed.settled()
    with psycopg.connect(database.admin_dsn, autocommit=True) as connection:

        def rows() -> object:
            return connection.execute(
                "SELECT (SELECT count(*) FROM aggregate.outbox), xmin, xmax FROM aggregate.tenant_totals"
            ).fetchall()

        # An event that arrives before its tenant is redelivered, so the rows may be missing at first.
        before = await eventually(rows)
        assert await node.service.announcer.announce() == 0
        assert rows() == before


async def test_announcer_limits_windows_per_message(
    node: Node, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer, "LIMIT", 3)
    await node.create(meter("m", types_pb2.AGGREGATION_COUNT))
    for number in range(1, 9):
        await feed.onboard(number, f"tenant-{number}")
    await feed.publish(accepted([Event(number, NOON) for number in range(1, 9)]))
    await feed.settled()
    assert await node.service.announcer.announce() == 8
    assert sorted(window.tenant_id for window in await wait_for_windows(feed, 8)) == list(range(1, 9))
    messages = await feed.bus.client.jsm().stream_info(USAGE_WINDOW.stream)
    assert messages.state.messages == 3


async def test_locked_month_does_not_delay_other_months(
    node: Node, feed: Feed, database: TestDatabase
) -> None:
    await node.create(meter("m", types_pb2.AGGREGATION_COUNT))
    await feed.onboard(1, "busy")
    await feed.onboard(2, "free")
    await feed.publish(accepted([Event(1, NOON), Event(2, NOON)]))
    await feed.settled()
    async with await psycopg.AsyncConnection.connect(database.app_dsn("aggregate")) as holder:
        await holder.execute("SELECT set_config('meterline.tenant_ids', '1', true)")
        await holder.execute("UPDATE changed_months SET traceparent = traceparent WHERE tenant_id = 1")
        task = asyncio.create_task(node.service.announcer.announce())
        (first,) = await wait_for_windows(feed, 1)
        assert first.tenant_id == 2
        await holder.commit()
    assert await task == 2
    assert [window.tenant_id for window in await wait_for_windows(feed, 2)] == [2, 1]


async def test_replicas_announce_periodically_without_duplicates(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    async with (
        running_aggregate(database, broker, emit_seconds=0.05) as one,
        running_aggregate(database, broker, emit_seconds=0.05),
    ):
        await one.create(meter("m", types_pb2.AGGREGATION_COUNT))
        await feed.onboard(1, "acme")
        for _ in range(20):
            await feed.publish(accepted([Event(1, NOON)]))
        await feed.settled()

        async def latest() -> int:
            windows = await published(feed)
            return windows[-1].event_count if windows else 0

        await eventually(latest, until=lambda number: number == 20)
        windows = await published(feed)
    revisions = [window.revision for window in windows]
    assert sorted(set(revisions)) == sorted(revisions)
