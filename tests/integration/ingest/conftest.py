"""Ingest with one tenant, `acme`, and one event type, `api.request`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from meterline_dev.servers import NatsServer
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.capture import RunningIngest, Sample, rows, running_ingest
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import QuarantineApi, forget_entries


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
def quarantine(ingest: RunningIngest, database: TestDatabase) -> QuarantineApi:
    """That of `acme`, without the event that `is_known` sent."""
    forget_entries(database)
    return QuarantineApi(ingest.channel)


async def is_known(service: RunningIngest, tenant_id: str) -> bool:
    """Whether ingest has heard of the tenant. Identity is not there to be asked."""
    from grpc.aio import AioRpcError

    try:
        response = await service.report(rows(Sample(type="no-such-type"), tenant_id=tenant_id))
    except AioRpcError:
        return False
    return response.outcomes[0].reason == "UNKNOWN_EVENT_TYPE"
