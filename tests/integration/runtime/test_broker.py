"""The broker as services need it: full streams refuse messages, and an ack means synced to disk."""

from __future__ import annotations

import asyncio

import pytest
from meterline.bus.connection import Bus
from meterline.bus.safety import UnsafeBrokerError, require_synced_jetstream
from meterline.bus.subjects import FACTS, STREAM_MAX_AGE
from meterline.errors import UnavailableError
from meterline_dev.servers import NatsServer
from meterline_dev.testing import scratch_directory
from nats.js.api import DiscardPolicy, StorageType

from tests.support.bus import OpenBus
from tests.support.polling import eventually

pytestmark = pytest.mark.req("K2", "T7.3")


async def test_every_stream_refuses_new_messages_instead_of_dropping_old_ones(bus: Bus) -> None:
    manager = bus.client.jsm()
    for fact in FACTS:
        config = (await manager.stream_info(fact.stream)).config
        assert config.subjects == [fact.subject]
        assert config.discard == DiscardPolicy.NEW
        assert config.storage == StorageType.FILE
        assert config.max_age == STREAM_MAX_AGE.total_seconds()


async def test_concurrently_started_services_share_streams(open_bus: OpenBus) -> None:
    buses = await asyncio.gather(*(open_bus(f"service-{number}") for number in range(4)))
    names = {info.config.name for info in await buses[0].client.jsm().streams_info()}
    assert names == {fact.stream for fact in FACTS}


async def test_service_creates_only_its_own_streams(broker: NatsServer) -> None:
    bus = Bus(broker.url, name="publisher")
    await bus.start()
    names = {info.config.name for info in await bus.client.jsm().streams_info()}
    assert names == {"TENANTS", "USAGE", "INVOICES"}
    await bus.stop()


async def test_publish_without_broker_fails_immediately_and_buffers_nothing(
    bus: Bus, broker: NatsServer
) -> None:
    await asyncio.to_thread(broker.stop)
    await eventually(lambda: not bus.connected)
    with pytest.raises(Exception, match="outbound buffer limit exceeded"):
        await bus.jetstream().publish("tenants.changed", b"x" * 100)


async def test_start_and_stop_may_be_called_twice(broker: NatsServer) -> None:
    bus = Bus(broker.url, name="test")
    await bus.stop()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="not started"):
            await bus.ensure_streams()
        await bus.start()
        await bus.start()
        await bus.ensure_streams()
        await bus.stop()
        await bus.stop()


async def test_broker_that_syncs_every_message_is_accepted(broker: NatsServer) -> None:
    await require_synced_jetstream(broker.monitor_url)


async def test_broker_that_syncs_periodically_is_refused() -> None:
    with (
        scratch_directory() as place,
        NatsServer(place / "nats", sync_interval="2m") as server,
        pytest.raises(UnsafeBrokerError, match="sync_interval: always"),
    ):
        await require_synced_jetstream(server.monitor_url)


async def test_broker_without_monitoring_is_refused() -> None:
    with pytest.raises(UnsafeBrokerError, match="METERLINE_NATS_MONITOR_URL"):
        await require_synced_jetstream("")
