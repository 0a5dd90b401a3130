"""Ingest with one tenant, `acme`, and one event type, `api.request`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from meterline_dev.servers import NatsServer
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.capture import RunningIngest, is_known, module_ingest, new_tenant, running_ingest
from tests.support.databases import Databases, TestDatabase
from tests.support.polling import eventually
from tests.support.quarantine import QuarantineApi
from tests.support.retention import Store, running_store


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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_ingest(databases: Databases, nats_server: NatsServer) -> AsyncIterator[RunningIngest]:
    """The same for all tests of a module, which are marked `asyncio(loop_scope="module")` and use no other
    service and not the fixture `broker`, which empties the broker."""
    async with module_ingest(databases, nats_server) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def own_tenant(shared_ingest: RunningIngest) -> RunningIngest:
    """`shared_ingest` for a tenant of the test's own."""
    return await new_tenant(shared_ingest)


@pytest.fixture
def quarantine(ingest: RunningIngest) -> QuarantineApi:
    """The quarantine of `acme`."""
    return QuarantineApi(ingest.channel)


@pytest.fixture
async def store(
    database: TestDatabase, broker: NatsServer, spans: InMemorySpanExporter
) -> AsyncIterator[Store]:
    async with running_store(database, broker) as running:
        yield running
