"""Unused meters can be deleted; meters with usage or references cannot."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from meterline_aggregate.folding.store import windows
from meterline_dev.servers import NatsServer
from meterline_protos.aggregate.v1 import meters_pb2
from meterline_protos.common.v1 import types_pb2

from tests.support.aggregate import Event, Feed, Node, accepted, meter, running_aggregate
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T6.1")

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
MONTH = types_pb2.GRAIN_MONTH
FLIGHTS = meter("flights", types_pb2.AGGREGATION_COUNT)
CALLS = meter("calls", types_pb2.AGGREGATION_COUNT, event_type="call")
ORPHANS = "SELECT count(*) FROM {} WHERE meter_id NOT IN (SELECT meter_id FROM meters)"


async def delete(node: Node, name: str) -> None:
    await node.meters.DeleteMeter(meters_pb2.DeleteMeterRequest(name=name))


async def refer_to(node: Node, name: str) -> meters_pb2.Meter:
    return (await node.meters.ReferToMeter(meters_pb2.ReferToMeterRequest(name=name))).meter


async def refusal(node: Node, name: str) -> tuple[grpc.StatusCode, str]:
    """(status, reason) of the refused deletion."""
    with pytest.raises(aio.AioRpcError) as raised:
        await delete(node, name)
    status = rpc_status.from_call(raised.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return raised.value.code(), info.reason


async def listed(node: Node) -> list[str]:
    return [one.name for one in (await node.meters.ListMeters(meters_pb2.ListMetersRequest())).meters]


def orphans(database: TestDatabase) -> list[int]:
    """The number of rows of deleted meters in each table."""
    tables = ("windows", "contributions", "changed_months", "window_members")
    return [database.read("aggregate", ORPHANS.format(table))[0][0] for table in tables]


async def test_unused_meter_is_deleted(node: Node, database: TestDatabase) -> None:
    await node.create(FLIGHTS, CALLS)
    await delete(node, "calls")
    assert await listed(node) == ["flights"]
    assert await refusal(node, "calls") == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    with pytest.raises(aio.AioRpcError) as raised:
        await refer_to(node, "calls")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    # Its name is free for another definition, which gets a new number.
    again = meter("calls", types_pb2.AGGREGATION_UNIQUE, event_type="call")
    await node.create(again)
    assert await refer_to(node, "calls") == again
    assert database.read("aggregate", "SELECT name, meter_id FROM meters ORDER BY 2") == [
        ("flights", 1),
        ("calls", 3),
    ]
    assert database.read("aggregate", "SELECT name, meter_id, deleted_by <> '' FROM meter_deletions") == [
        ("calls", 2, True)
    ]


async def test_meter_with_usage_or_reference_is_not_deleted(node: Node, feed: Feed) -> None:
    await node.create(FLIGHTS, CALLS)
    await refer_to(node, "calls")
    await refer_to(node, "calls")
    assert await refusal(node, "calls") == (grpc.StatusCode.FAILED_PRECONDITION, "METER_REFERRED_TO")
    await feed.onboard(1, "acme")
    # An event of one tenant is usage, even after its retraction.
    fact = accepted([Event(1, NOON)])
    await feed.publish(fact)
    await feed.settled()
    batch_id = uuid.UUID(bytes=fact.batches[0].batch_id)
    await feed.publish(accepted([Event(1, NOON)], origins=[[batch_id]]))
    await feed.settled()
    (window,) = await node.windows("acme", "flights", MONTH)
    assert window.value == "0"
    assert await refusal(node, "flights") == (grpc.StatusCode.FAILED_PRECONDITION, "METER_HAS_USAGE")
    assert await listed(node) == ["calls", "flights"]


async def test_usage_by_name_is_that_of_the_current_meter(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    """Also on a replica that has answered for the deleted meter of that name."""
    async with running_aggregate(database, broker) as one, running_aggregate(database, broker) as other:
        await feed.onboard(1, "acme")
        await one.create(FLIGHTS)
        await eventually(lambda: knows_meter(one))
        assert await one.windows("acme", "flights", MONTH) == []
        await delete(other, "flights")
        assert not await knows_meter(one)
        await other.create(meter("flights", types_pb2.AGGREGATION_UNIQUE))
        await feed.publish(accepted([Event(1, NOON), Event(1, NOON)]))
        await feed.settled()
        (window,) = await one.windows("acme", "flights", MONTH)
        assert (window.value, window.event_count) == ("1", 2)
        assert window.aggregation == types_pb2.AGGREGATION_UNIQUE


async def knows_meter(node: Node) -> bool:
    """Whether the node knows the meter and the tenant."""
    try:
        await node.windows("acme", "flights", MONTH)
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return False
        raise
    return True


async def test_every_replica_notices_deletion(database: TestDatabase, broker: NatsServer, feed: Feed) -> None:
    """Also if the newest meter remains, and on a replica that did not delete the meters."""
    async with running_aggregate(database, broker) as one:
        await one.create(FLIGHTS, CALLS, meter("newest", types_pb2.AGGREGATION_COUNT, event_type="none"))
        await feed.onboard(1, "acme")
        # Makes the replica cache the meters, and that none counts this type.
        await feed.publish(accepted([Event(1, NOON, "other")]))
        await feed.settled()
        async with running_aggregate(database, broker) as other:
            await delete(other, "calls")
            await delete(other, "flights")
        await feed.publish(accepted([Event(1, NOON, "call"), Event(1, NOON)]))
        await feed.settled()
        assert orphans(database) == [0, 0, 0, 0]
        await one.create(meter("calls", types_pb2.AGGREGATION_COUNT, event_type="flight"))
        await feed.publish(accepted([Event(1, NOON, "call"), Event(1, NOON), Event(1, NOON)]))
        await feed.settled()
        assert [window.value for window in await one.windows("acme", "calls", MONTH)] == ["2"]


@pytest.mark.req("T3.2")
async def test_deletion_waits_for_folding_transactions(
    node: Node, feed: Feed, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No meter is deleted between its lookup by a fold and the commit of the fold."""
    await node.create(FLIGHTS)
    await feed.onboard(1, "acme")
    looked_up, go_on = asyncio.Event(), asyncio.Event()
    apply = windows.apply

    async def held(*arguments: object) -> None:
        looked_up.set()
        await go_on.wait()
        await apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "apply", held)
    await feed.publish(accepted([Event(1, NOON)]))
    await looked_up.wait()
    try:
        # While the fold is open, deletions are refused with ABORTED, which callers retry.
        assert await refusal(node, "flights") == (grpc.StatusCode.ABORTED, "ABORTED")
        deletion = asyncio.create_task(refusal(node, "flights"))
        await eventually(lambda: waiting(database))
    finally:
        go_on.set()
    assert await deletion == (grpc.StatusCode.FAILED_PRECONDITION, "METER_HAS_USAGE")
    await feed.settled()
    assert [window.value for window in await node.windows("acme", "flights", MONTH)] == ["1"]
    assert orphans(database) == [0, 0, 0, 0]


def waiting(database: TestDatabase) -> bool:
    """Whether a deletion waits for a lock."""
    found = database.read(
        "aggregate", "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
    )
    return bool(found[0][0])


@pytest.mark.req("T3.2", "O9")
async def test_concurrent_deletion_and_folding_leave_no_orphans(
    database: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    async with running_aggregate(database, broker) as one, running_aggregate(database, broker) as other:
        await feed.onboard(1, "acme")
        await one.create(FLIGHTS)
        counted = deleted = 0
        for turn in range(40):
            # Each turn has a new type, whose meter is unused until the event that races with the deletion.
            kind = f"type{turn}"
            await one.create(meter(kind, types_pb2.AGGREGATION_COUNT, event_type=kind))
            deleting = asyncio.create_task(attempt(other if turn % 2 else one, kind))
            await asyncio.gather(*(feed.publish(accepted([Event(1, NOON, kind)])) for _ in range(3)))
            was_deleted = await deleting
            deleted += was_deleted
            counted += not was_deleted
        await feed.settled()
        assert orphans(database) == [0, 0, 0, 0]
        names = set(await listed(one))
        assert len(names) == 1 + counted
        assert counted + deleted == 40
        for name in names - {"flights"}:
            assert [window.value for window in await other.windows("acme", name, MONTH)] == ["3"]


async def attempt(node: Node, name: str) -> bool:
    """Tries to delete the meter until the answer is final; returns whether it was deleted."""
    while True:
        try:
            await delete(node, name)
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                continue
            return False
        return True
