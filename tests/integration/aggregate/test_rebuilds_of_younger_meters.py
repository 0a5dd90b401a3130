"""A rebuild leaves out the retractions of events that were accepted before the meter was created."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from meterline_dev.servers import NatsServer
from meterline_protos.common.v1 import types_pb2

from tests.support.aggregate import Event, Feed, meter, rebuilt, running_aggregate
from tests.support.databases import TestDatabase
from tests.support.raw_events import History, serving

pytestmark = pytest.mark.req("T3.4", "T1.6")

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)


def flight(miles: str) -> Event:
    return Event(1, NOON, subject="N1", dimensions={"origin": "JFK"}, quantities={"miles": miles})


async def test_rebuild_keeps_a_counted_event_that_equals_a_retracted_one_from_before_the_meter(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    history = History({1: "acme"})
    async with (
        serving(history) as address,
        running_aggregate(database, broker, ingest_address=address, reconcile_seconds=3600) as node,
    ):
        await node.create(meter("old", types_pb2.AGGREGATION_MAX, quantity="miles"))
        await feed.onboard(1, "acme", "UTC")
        await feed.publish(history.accept([flight("5")]))
        await feed.settled()
        await node.create(meter("young", types_pb2.AGGREGATION_MAX, quantity="miles"))
        await feed.publish(history.accept([flight("5"), flight("900")]))
        await feed.settled()
        (before_the_meter, _, longest) = history.left

        await feed.publish(history.accept([], [before_the_meter, longest]))
        await feed.settled()
        await rebuilt(database)

        for name in ("old", "young"):
            (window,) = await node.windows("acme", name, types_pb2.GRAIN_MONTH)
            assert (window.value, window.event_count, window.rebuilding) == ("5", 1, False)
