"""Queries of windows and contributions: pages, ranges, groups, lineage, and refused requests."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from meterline.ids import new_id
from meterline_protos.aggregate.v1 import usage_pb2
from meterline_protos.common.v1 import types_pb2

from tests.support.aggregate import (
    EVER,
    METERS,
    Event,
    Feed,
    Node,
    accepted,
    counts,
    some_events,
    time_range,
    value_of,
)
from tests.support.calls import status_of

pytestmark = pytest.mark.req("T2.3", "T5.4")

HOUR = timedelta(hours=1)
# Midnight in Kolkata, where local days begin at half past an hour of UTC.
MIDNIGHT = datetime(2026, 10, 31, 18, 30, tzinfo=UTC)


@pytest.fixture
async def used(node: Node, feed: Feed) -> Node:
    """A tenant in Kolkata, with three days of events in three batches around the end of a month."""
    await node.create(*METERS)
    await feed.onboard(1, "acme", "Asia/Kolkata")
    for batch_id, events in BATCHES.items():
        await feed.publish(accepted(events, batch_ids=[batch_id]))
    await feed.settled()
    return node


BATCHES = {
    new_id(): some_events(1, 60, seed=seed, start=MIDNIGHT - 36 * HOUR, span=72 * HOUR) for seed in range(3)
}
EVENTS = [event for events in BATCHES.values() for event in events]


def ask(**changes: Any) -> usage_pb2.QueryUsageRequest:
    given: dict[str, Any] = {
        "tenant_id": "acme",
        "meter": "departures",
        "grain": types_pb2.GRAIN_HOUR,
        "range": EVER,
    }
    return usage_pb2.QueryUsageRequest(**given | changes)


@pytest.mark.parametrize("by_group", [False, True])
async def test_pages_of_any_size_list_all_windows_in_order(used: Node, by_group: bool) -> None:
    whole = await used.windows("acme", "departures", types_pb2.GRAIN_HOUR, by_group=by_group)
    assert len(whole) > 50
    order = [(window.start_time.ToDatetime(), int(window.window_id.rpartition("/")[2])) for window in whole]
    assert order == sorted(set(order))
    for page_size in (1, 7, len(whole), len(whole) + 1):
        pages = await used.windows(
            "acme", "departures", types_pb2.GRAIN_HOUR, by_group=by_group, page_size=page_size
        )
        assert pages == whole


async def test_window_added_between_pages_hides_and_repeats_none(used: Node, feed: Feed) -> None:
    request = ask(page_size=10)
    first = await used.usage.QueryUsage(request)
    await feed.publish(accepted([Event(1, MIDNIGHT - 100 * HOUR)]))
    await feed.settled()
    whole = await used.windows("acme", "departures", types_pb2.GRAIN_HOUR)
    request.page_token = first.next_page_token
    second = await used.usage.QueryUsage(request)
    assert [*first.windows, *second.windows] == whole[1:21]


async def test_range_lists_windows_that_start_in_it(used: Node) -> None:
    days = await used.windows("acme", "departures", types_pb2.GRAIN_DAY)
    starts = [day.start_time.ToDatetime(UTC) for day in days]
    assert MIDNIGHT in starts
    answer = await used.usage.QueryUsage(
        ask(grain=types_pb2.GRAIN_DAY, range=time_range(MIDNIGHT, MIDNIGHT + timedelta(microseconds=1)))
    )
    assert [window.start_time.ToDatetime(UTC) for window in answer.windows] == [MIDNIGHT]
    (window,) = answer.windows
    assert window.end_time.ToDatetime(UTC) == MIDNIGHT + 24 * HOUR
    assert window.window_id == f"departures/day/{int(MIDNIGHT.timestamp())}/0"
    assert 1 <= window.revision <= 3, "three messages changed it, in one to three transactions"


async def test_month_ends_where_the_next_begins(used: Node) -> None:
    october, november = await used.windows("acme", "departures", types_pb2.GRAIN_MONTH)
    assert october.start_time.ToDatetime(UTC) == datetime(2026, 9, 30, 18, 30, tzinfo=UTC)
    assert october.end_time == november.start_time
    assert november.start_time.ToDatetime(UTC) == MIDNIGHT
    assert november.end_time.ToDatetime(UTC) == datetime(2026, 11, 30, 18, 30, tzinfo=UTC)


@pytest.mark.req("X1")
@pytest.mark.parametrize("name", ["departures", "miles", "longest"])
async def test_contributions_add_up_to_the_local_month(used: Node, name: str) -> None:
    (meter,) = [one for one in METERS if one.name == name]
    for month in await used.windows("acme", name, types_pb2.GRAIN_MONTH):
        reach = types_pb2.TimeRange(start_time=month.start_time, end_time=month.end_time)
        found = await contributions(used, name, reach, page_size=7)
        assert sum(one.event_count for one in found) == month.event_count
        values = [Decimal(one.value) for one in found]
        together = max(values) if name == "longest" else sum(values, Decimal(0))
        assert together == Decimal(month.value)
        for one in found:
            start, end = one.hour_start.ToDatetime(UTC), one.hour_end.ToDatetime(UTC)
            events = [
                event
                for event in BATCHES[uuid.UUID(one.batch_id)]
                if start <= event.time < end and counts(meter, event)
            ]
            assert len(events) == one.event_count
            assert value_of(meter, events) == Decimal(one.value)


async def contributions(
    node: Node, meter: str, reach: types_pb2.TimeRange, page_size: int
) -> list[usage_pb2.Contribution]:
    request = usage_pb2.ListContributionsRequest(
        tenant_id="acme", meter=meter, range=reach, page_size=page_size
    )
    found: list[usage_pb2.Contribution] = []
    while True:
        answer = await node.usage.ListContributions(request)
        assert len(answer.contributions) <= page_size
        found += answer.contributions
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


@pytest.mark.req("X1")
async def test_batch_lists_all_its_contributions(used: Node) -> None:
    everything = [
        one for meter in METERS for one in await contributions(used, meter.name, EVER, page_size=1000)
    ]
    for batch_id in BATCHES:
        answer = await used.usage.FindContributions(
            usage_pb2.FindContributionsRequest(tenant_id="acme", batch_id=str(batch_id))
        )
        found = list(answer.contributions)
        assert found == sorted(found, key=lambda one: (one.meter, one.hour_start.ToNanoseconds()))
        expected = [one for one in everything if one.batch_id == str(batch_id)]
        assert sorted(map(repr, found)) == sorted(map(repr, expected))
        assert {one.value for one in found if one.meter == "aircraft"} == {""}


REFUSED: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
    ({"tenant_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "tenant_id"),
    ({"tenant_id": "nobody"}, grpc.StatusCode.NOT_FOUND, ""),
    ({"meter": ""}, grpc.StatusCode.INVALID_ARGUMENT, "meter"),
    ({"meter": "nothing"}, grpc.StatusCode.NOT_FOUND, ""),
    ({"grain": 0}, grpc.StatusCode.INVALID_ARGUMENT, "grain"),
    ({"grain": 77}, grpc.StatusCode.INVALID_ARGUMENT, "grain"),
    ({"range": None}, grpc.StatusCode.INVALID_ARGUMENT, "range.start_time"),
    ({"range": time_range(MIDNIGHT, MIDNIGHT)}, grpc.StatusCode.INVALID_ARGUMENT, "range"),
    ({"page_token": "?"}, grpc.StatusCode.INVALID_ARGUMENT, "page_token"),
    ({"page_token": "WzldYQ"}, grpc.StatusCode.INVALID_ARGUMENT, "page_token"),
    ({"page_token": "WzkyMjMzNzIwMzY4NTQ3NzU4MDdd"}, grpc.StatusCode.INVALID_ARGUMENT, "page_token"),
    ({"meter": "origins", "by_group": True}, grpc.StatusCode.INVALID_ARGUMENT, "by_group"),
]


async def test_invalid_query_is_refused_with_its_field(node: Node, feed: Feed) -> None:
    await node.create(*METERS)
    await feed.onboard(1, "acme")
    await feed.publish(accepted([Event(1, MIDNIGHT)]))
    await feed.settled()
    for changes, code, field in REFUSED:
        with pytest.raises(aio.AioRpcError) as raised:
            await node.usage.QueryUsage(ask(**changes))
        assert raised.value.code() is code, changes
        if field:
            assert violated_field(raised.value) == field, changes


async def test_batch_id_must_be_valid(node: Node) -> None:
    with pytest.raises(aio.AioRpcError) as raised:
        await node.usage.FindContributions(usage_pb2.FindContributionsRequest(tenant_id="acme", batch_id="7"))
    assert violated_field(raised.value) == "batch_id"


def violated_field(error: aio.AioRpcError) -> str:
    for detail in status_of(error).details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            return str(request.field_violations[0].field)
    raise AssertionError("no field is named")
