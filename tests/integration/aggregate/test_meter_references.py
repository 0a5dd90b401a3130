"""Meters refer to existing event types: aggregate asks ingest before it creates a meter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from meterline_dev.servers import NatsServer, reserve_port
from meterline_protos.aggregate.v1 import meters_pb2
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import event_types_pb2

from tests.support.aggregate import METERS, Feed, Node, meter, running_aggregate
from tests.support.capture import RunningIngest, running_ingest
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.raw_events import History, serving

pytestmark = pytest.mark.req("T6.1")

COUNT, SUM, UNIQUE = (
    types_pb2.AGGREGATION_COUNT,
    types_pb2.AGGREGATION_SUM,
    types_pb2.AGGREGATION_UNIQUE,
)


async def refused(
    node: Node, name: str, kind: types_pb2.Aggregation.ValueType, **more: Any
) -> tuple[str, str]:
    """(field, reason) of the refused creation."""
    with pytest.raises(aio.AioRpcError) as raised:
        await node.create(meter(name, kind, **more))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION, raised.value.details()
    status = rpc_status.from_call(raised.value)  # type: ignore[arg-type]
    info, failure = error_details_pb2.ErrorInfo(), error_details_pb2.PreconditionFailure()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(failure)
    return failure.violations[0].subject, info.reason


async def listed(node: Node) -> list[str]:
    return [one.name for one in (await node.meters.ListMeters(meters_pb2.ListMetersRequest())).meters]


async def put(ingest: RunningIngest, wanted: event_types_pb2.EventType, tenant: str = "") -> None:
    request = event_types_pb2.PutEventTypeRequest(event_type=wanted, tenant_id=tenant, changed_by="ann")
    await ingest.types.PutEventType(request)


PB = event_types_pb2
FLIGHT = PB.EventType(
    name="flight.departed",
    quantities=[PB.QuantityDefinition(name="air_minutes"), PB.QuantityDefinition(name="held", scale=6)],
    dimensions=[
        PB.DimensionDefinition(name="origin"),
        PB.DimensionDefinition(name="cabin", values=["F", "Y"]),
        PB.DimensionDefinition(name="region"),
    ],
    enrichments=[
        PB.Enrichment(
            namespace="airports",
            key="origin",
            attributes=[PB.EnrichedAttribute(attribute="region")],
            when_missing=PB.MISSING_ENTRY_ACCEPT,
        )
    ],
    timer=PB.TimerPolicy(
        quantity="held", abandoned_after_seconds=60, when_abandoned=PB.ABANDONED_TIMER_DISCARD
    ),
)


@pytest.fixture
def both(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    return make_database("ingest", "aggregate")


@pytest.mark.req("O1")
async def test_meter_must_refer_to_existing_event_type(both: TestDatabase, broker: NatsServer) -> None:
    of = {"event_type": "flight.departed"}
    async with (
        running_ingest(both, broker) as ingest,
        running_aggregate(both, broker, ingest_address=ingest.address) as node,
    ):
        assert await refused(node, "m", COUNT, **of) == ("meter.event_type", "EVENT_TYPE_UNKNOWN")
        await put(ingest, FLIGHT)
        # The type includes quantities of timers and dimensions from the catalogue.
        await node.create(
            meter("departures", COUNT, filter={"cabin": "F", "region": "any"}, **of),
            meter("held", SUM, quantity="held", group_by=["region", "cabin"], **of),
            meter("origins", UNIQUE, unique_dimension="origin", **of),
        )
        for field, reason, kind, more in (
            ("meter.quantity", "QUANTITY_UNKNOWN", SUM, {"quantity": "air_minute"}),
            ("meter.group_by", "DIMENSION_UNKNOWN", COUNT, {"group_by": ["dest"]}),
            ("meter.unique_dimension", "DIMENSION_UNKNOWN", UNIQUE, {"unique_dimension": "dest"}),
            ("meter.filter.dest", "DIMENSION_UNKNOWN", COUNT, {"filter": {"dest": "JFK"}}),
            ("meter.filter.cabin", "VALUE_NOT_ALLOWED", COUNT, {"filter": {"cabin": "f"}}),
        ):
            assert await refused(node, "m", kind, **of, **more) == (field, reason)
        assert await listed(node) == ["departures", "held", "origins"]


@pytest.mark.req("O1")
async def test_meter_counts_same_named_types_of_several_tenants(
    both: TestDatabase, broker: NatsServer, feed: Feed
) -> None:
    """Meters apply to all tenants; here each tenant's type of the same name has different fields."""
    of = {"event_type": "own.call"}
    async with (
        running_ingest(both, broker) as ingest,
        running_aggregate(both, broker, ingest_address=ingest.address) as node,
    ):
        for number, slug in ((1, "acme"), (2, "globex")):
            await feed.onboard(number, slug)
            await eventually(partial(put_own, ingest, slug))
        await node.create(
            meter("own1", SUM, quantity="own.acme", filter={"line": "globex"}, **of),
            meter("own2", SUM, quantity="own.globex", filter={"line": "acme"}, **of),
        )
        assert await refused(node, "m", SUM, quantity="own.other", **of) == (
            "meter.quantity",
            "QUANTITY_UNKNOWN",
        )
        assert await refused(node, "m", COUNT, filter={"line": "initech"}, **of) == (
            "meter.filter.line",
            "VALUE_NOT_ALLOWED",
        )


async def put_own(ingest: RunningIngest, slug: str) -> bool:
    """Returns whether it succeeded: not before ingest knows the tenant."""
    own = PB.EventType(
        name="own.call",
        quantities=[PB.QuantityDefinition(name=f"own.{slug}", scale=6)],
        dimensions=[PB.DimensionDefinition(name="line", values=[slug])],
    )
    try:
        await put(ingest, own, slug)
    except aio.AioRpcError:
        return False
    return True


@pytest.mark.req("T8.3")
async def test_meter_is_not_created_while_ingest_is_unavailable(
    database: TestDatabase, broker: NatsServer
) -> None:
    lease = reserve_port()
    address = f"127.0.0.1:{lease.port}"
    async with (
        serving(History({})) as available,
        running_aggregate(database, broker, ingest_address=available) as node,
    ):
        await node.create(METERS[0])
    async with running_aggregate(database, broker, ingest_address=address) as node:
        with pytest.raises(aio.AioRpcError) as raised:
            await node.create(METERS[1])
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        # An existing meter is answered without a call to ingest.
        answer = await node.meters.CreateMeter(meters_pb2.CreateMeterRequest(meter=METERS[0]))
        assert not answer.created
        assert await listed(node) == [METERS[0].name]
    lease.release()


async def test_event_type_is_not_checked_without_ingest_address(node: Node) -> None:
    await node.create(meter("m", COUNT, event_type="nobody.has.it"))
    assert await listed(node) == ["m"]
