"""Identity, running inside the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from grpc import aio
from meterline.clock import ManualClock
from meterline_dev.servers import NatsServer
from meterline_identity.main import Identity
from meterline_identity.settings import IdentitySettings
from meterline_protos.identity.v1 import tenants_pb2_grpc

from tests.support.databases import TestDatabase
from tests.support.services import running, settings_for


@pytest.fixture
def database(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    return make_database("identity")


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock(0)
    clock.advance(timedelta(days=20_000, microseconds=123_456))
    return clock


@pytest.fixture
async def channel(
    database: TestDatabase, broker: NatsServer, clock: ManualClock
) -> AsyncIterator[aio.Channel]:
    settings = IdentitySettings.model_validate(settings_for("identity", database, broker))
    async with running(Identity(settings, clock)) as channel:
        yield channel


@pytest.fixture
def tenants(channel: aio.Channel) -> tenants_pb2_grpc.TenantsServiceAsyncStub:
    return tenants_pb2_grpc.TenantsServiceStub(channel)
