"""The publisher, running inside the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from meterline_dev.servers import NatsServer
from meterline_dev.stripe_double import ControlClient, DoubleSettings, running_double
from meterline_publisher.main import Publisher
from meterline_publisher.settings import PublisherSettings

from tests.contract.stripe_double.lab import CONTROL_KEY, Lab
from tests.integration.publisher.world import NOW, Api, World
from tests.support.bus import OpenBus
from tests.support.clocks import ShiftedClock
from tests.support.databases import TestDatabase
from tests.support.fake_billing import FakeBilling, registry
from tests.support.fake_mesh import FakeMesh, serving
from tests.support.services import running, settings_for

StartPublisher = Callable[..., Awaitable[Api]]


@pytest.fixture(scope="module")
def double_address() -> Iterator[str]:
    with running_double(settings=DoubleSettings(control_key=CONTROL_KEY, error_report_delay=0.01)) as double:
        yield double.address


@pytest.fixture(scope="module")
def control(double_address: str) -> Iterator[ControlClient]:
    with ControlClient(double_address, CONTROL_KEY) as control:
        yield control


@pytest.fixture
def lab(double_address: str, control: ControlClient) -> Lab:
    """A lab on the module's double; its faults are cleared and its clock follows real time."""
    control.clear_faults()
    control.follow_real_time()
    return Lab(double_address, control)


@pytest.fixture
async def world(
    make_database: Callable[..., TestDatabase], broker: NatsServer, open_bus: OpenBus, lab: Lab
) -> AsyncIterator[World]:
    """Everything that a publisher needs to run: database, broker, fake services and the Stripe double.

    No replica runs before a test takes `api` or calls `start`."""
    mesh = FakeMesh()
    async with serving(mesh) as address:
        bus = await open_bus()
        database = make_database("publisher")
        yield World(database, bus, mesh, lab, ShiftedClock(NOW), address, broker)


def settings(world: World, **more: object) -> PublisherSettings:
    """Settings with short pauses, and with periodic work off unless a test enables it."""
    values = settings_for("publisher", world.database, world.broker) | {
        "aggregate_address": world.aggregate,
        "ingest_address": world.aggregate,
        "stripe_api_key": "rk_test_publisher",
        "stripe_api_base": world.lab.address,
        "stripe_timeout_seconds": 2.0,
        "send_backoff_seconds": 0.02,
        "send_backoff_max_seconds": 0.2,
        "close_check_seconds": 3_600.0,
        "settle_seconds": 3_600.0,
        "freshness_wait_seconds": 0.2,
        "trace_ui_url": "http://traces.test/{trace_id}",
    }
    return PublisherSettings.model_validate(values | more)


@pytest.fixture
async def start(world: World) -> AsyncIterator[StartPublisher]:
    """A function `(*providers, **settings) -> Api` that starts a replica of the publisher, by default with
    the Stripe double as its provider. All replicas stop after the test."""
    async with AsyncExitStack() as stack:

        async def start_replica(*given: FakeBilling, **more: object) -> Api:
            providers = registry(*given) if given else None
            service = Publisher(settings(world, **more), world.clock, providers)
            channel = await stack.enter_async_context(running(service))
            api = Api(channel, world.mesh)
            world.api = world.api or api
            return api

        yield start_replica


@pytest.fixture
async def api(start: StartPublisher) -> Api:
    """The calls of one running replica of the publisher, for tests that need no other settings."""
    return await start()
