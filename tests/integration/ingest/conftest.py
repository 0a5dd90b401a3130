"""Ingest with one tenant, `acme`, and one event type, `api.request`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from meterline_dev.servers import NatsServer
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.capture import RunningIngest, is_known, running_ingest
from tests.support.databases import TestDatabase
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
