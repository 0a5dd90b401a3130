"""Meters are created once, and never change."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc import aio
from meterline_dev.servers import NatsServer
from meterline_protos.aggregate.v1 import meters_pb2
from meterline_protos.common.v1 import types_pb2

from tests.support.aggregate import METERS, Feed, Node, meter, running_aggregate
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T6.1")


def creation(one: meters_pb2.Meter) -> meters_pb2.CreateMeterRequest:
    return meters_pb2.CreateMeterRequest(meter=one)


async def listed(node: Node) -> list[meters_pb2.Meter]:
    return list((await node.meters.ListMeters(meters_pb2.ListMetersRequest())).meters)


async def test_meter_is_created_once(node: Node) -> None:
    for one in METERS:
        answer = await node.meters.CreateMeter(creation(one))
        assert answer.created
        assert answer.meter == one
        answer = await node.meters.CreateMeter(creation(one))
        assert not answer.created
        assert answer.meter == one
    assert await listed(node) == sorted(METERS, key=lambda one: one.name)


@pytest.mark.req("T4.1")
async def test_meters_are_listed_for_an_existing_tenant(node: Node, feed: Feed) -> None:
    """Callers with an API key of one tenant must name the tenant."""
    await node.create(METERS[0])
    request = meters_pb2.ListMetersRequest(tenant_id="acme")
    with pytest.raises(aio.AioRpcError) as raised:
        await node.meters.ListMeters(request)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND

    async def answered() -> list[meters_pb2.Meter]:
        try:
            return list((await node.meters.ListMeters(request)).meters)
        except aio.AioRpcError:
            return []

    await feed.onboard(1, "acme")
    assert await eventually(answered) == [METERS[0]]


async def test_order_of_dimensions_is_irrelevant(node: Node) -> None:
    given = meter("m", types_pb2.AGGREGATION_COUNT, group_by=["b", "a"])
    other = meter("m", types_pb2.AGGREGATION_COUNT, group_by=["a", "b"])
    await node.create(given)
    answer = await node.meters.CreateMeter(creation(other))
    assert not answer.created
    assert answer.meter == given


async def test_definition_cannot_change(node: Node) -> None:
    await node.create(meter("m", types_pb2.AGGREGATION_COUNT))
    with pytest.raises(aio.AioRpcError) as raised:
        await node.create(meter("m", types_pb2.AGGREGATION_UNIQUE))
    assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert await listed(node) == [meter("m", types_pb2.AGGREGATION_COUNT)]


async def test_invalid_definition_is_refused_with_its_field(node: Node) -> None:
    with pytest.raises(aio.AioRpcError) as raised:
        await node.create(meter("m", types_pb2.AGGREGATION_SUM))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "meter.quantity" in (raised.value.details() or "")
    assert await listed(node) == []


async def test_concurrent_creations_create_one_meter(database: TestDatabase, broker: NatsServer) -> None:
    async with running_aggregate(database, broker) as one, running_aggregate(database, broker) as other:
        answers = await asyncio.gather(
            *(node.meters.CreateMeter(creation(METERS[0])) for node in [one, other] * 8)
        )
        assert sum(answer.created for answer in answers) == 1
        assert await listed(other) == [METERS[0]]
