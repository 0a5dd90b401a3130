"""Ingest with one tenant, `acme`, and one event type, `api.request`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from grpc.aio import AioRpcError
from meterline_dev.servers import NatsServer
from meterline_protos.ingest.v1 import events_pb2
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.capture import RunningIngest, running_ingest
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import QuarantineApi


@pytest.fixture
def database(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    return make_database("ingest")


@pytest.fixture
async def ingest(
    database: TestDatabase, broker: NatsServer, spans: InMemorySpanExporter
) -> AsyncIterator[RunningIngest]:
    async with running_ingest(database, broker) as service:
        await service.put_type()
        await service.onboard(1, "acme")
        await eventually(lambda: is_known(service, "acme"))
        yield service


@pytest.fixture
def quarantine(ingest: RunningIngest) -> QuarantineApi:
    """That of `acme`."""
    return QuarantineApi(ingest.channel)


async def is_known(service: RunningIngest, tenant_id: str) -> bool:
    """Whether ingest has heard of the tenant. Identity is not there to be asked."""
    try:
        await service.events.GetTotals(events_pb2.GetTotalsRequest(tenant_id=tenant_id))
    except AioRpcError:
        return False
    return True
