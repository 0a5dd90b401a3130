"""An aggregate service that runs in the test's process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from meterline.bus.connection import Bus
from meterline_dev.servers import NatsServer

from tests.support.aggregate import Feed, Node, running_aggregate
from tests.support.databases import TestDatabase


@pytest.fixture
def database(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    return make_database("aggregate")


@pytest.fixture
async def feed(bus: Bus) -> Feed:
    feed = Feed(bus)
    await feed.forget_ids_soon()
    return feed


@pytest.fixture
async def node(database: TestDatabase, broker: NatsServer) -> AsyncIterator[Node]:
    async with running_aggregate(database, broker) as node:
        yield node
