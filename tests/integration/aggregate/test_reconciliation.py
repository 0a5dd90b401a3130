"""Reconciliation compares the numbers of accepted and folded events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from grpc import aio
from meterline.telemetry import metrics
from meterline_dev.servers import NatsServer
from meterline_protos.aggregate.v1 import reconciliation_pb2
from meterline_protos.ingest.v1 import events_pb2, events_pb2_grpc

from tests.support.aggregate import Event, Feed, Node, accepted, running_aggregate
from tests.support.databases import TestDatabase
from tests.support.polling import eventually

pytestmark = pytest.mark.req("X2")

NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)


class ScriptedTotals(events_pb2_grpc.EventsServiceServicer):
    """A fake of ingest that answers totals only."""

    def __init__(self) -> None:
        self.accepted: dict[str, int] = {}

    async def GetTotals(
        self, request: events_pb2.GetTotalsRequest, context: aio.ServicerContext[Any, Any]
    ) -> events_pb2.GetTotalsResponse:
        if request.tenant_id and request.tenant_id not in self.accepted:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such tenant")
        chosen = [request.tenant_id] if request.tenant_id else sorted(self.accepted)
        return events_pb2.GetTotalsResponse(
            totals=[events_pb2.TenantTotal(tenant_id=name, accepted=self.accepted[name]) for name in chosen]
        )


@asynccontextmanager
async def serving(totals: ScriptedTotals) -> AsyncIterator[str]:
    server = aio.server()
    events_pb2_grpc.add_EventsServiceServicer_to_server(totals, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def compare(node: Node, tenant: str = "") -> dict[str, tuple[int, int, int]]:
    answer = await node.reconciliation.Compare(
        reconciliation_pb2.CompareRequest(tenant_id=tenant), timeout=10
    )
    return {one.tenant_id: (one.accepted, one.aggregated, one.gap) for one in answer.tenants}


def gap() -> float:
    (metric,) = metrics.CONSERVATION_GAP.collect()
    return metric.samples[0].value


@pytest.fixture
def totals() -> ScriptedTotals:
    found: Any = ScriptedTotals()  # type: ignore[abstract]
    return found  # type: ignore[no-any-return]


async def test_gap_is_reported_by_tenant(
    database: TestDatabase, broker: NatsServer, feed: Feed, totals: ScriptedTotals
) -> None:
    async with (
        serving(totals) as address,
        running_aggregate(database, broker, ingest_address=address, reconcile_seconds=3600) as node,
    ):
        await feed.onboard(1, "acme")
        await feed.onboard(2, "globex")
        # Events that no meter counts are aggregated as well.
        await feed.publish(accepted([Event(1, NOON)] * 5, [Event(2, NOON)] * 3))
        await feed.settled()
        totals.accepted = {"acme": 5, "globex": 3, "initech": 0}
        assert await compare(node) == {"acme": (5, 5, 0), "globex": (3, 3, 0), "initech": (0, 0, 0)}
        assert gap() == 0
        totals.accepted = {"acme": 7, "globex": 2, "initech": 4}
        assert await compare(node) == {"acme": (7, 5, 2), "globex": (2, 3, -1), "initech": (4, 0, 4)}
        # Events accepted since the last comparison may be under way; excess events are an error at once.
        assert gap() == 1
        assert await compare(node, "acme") == {"acme": (7, 5, 2)}
        await compare(node)
        assert gap() == 2 + 4 + 1
        with pytest.raises(aio.AioRpcError) as raised:
            await compare(node, "nobody")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_gap_metric_is_updated_periodically(
    database: TestDatabase, broker: NatsServer, totals: ScriptedTotals
) -> None:
    totals.accepted = {"acme": 9}
    metrics.CONSERVATION_GAP.set(0)
    async with (
        serving(totals) as address,
        running_aggregate(database, broker, ingest_address=address, reconcile_seconds=0.05),
    ):
        await eventually(gap, until=lambda value: value == 9)


@pytest.mark.parametrize("address", ["", "127.0.0.1:1"])
async def test_comparison_without_ingest_is_unavailable(
    database: TestDatabase, broker: NatsServer, address: str
) -> None:
    async with running_aggregate(database, broker, ingest_address=address) as node:
        with pytest.raises(aio.AioRpcError) as raised:
            await compare(node)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
