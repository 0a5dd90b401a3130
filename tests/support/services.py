"""A service inside the test's own process and event loop, wired as in its `main`."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from grpc import aio
from meterline.service.run import Service
from meterline_dev.servers import NatsServer
from pydantic import SecretStr

from tests.support.databases import TestDatabase

# A master key for tests only.
MASTER_KEYS = f"test:{base64.b64encode(bytes(range(32))).decode()}"


def settings_for(service: str, database: TestDatabase, broker: NatsServer) -> dict[str, object]:
    """The required settings of a service, as keyword arguments."""
    needed: dict[str, object] = {
        "database_url": SecretStr(database.app_dsn(service)),
        "nats_url": SecretStr(broker.url),
        "nats_monitor_url": broker.monitor_url,
        "shutdown_grace_seconds": 1.0,
        "metrics_port": -1,
        "authentication": "off",
        "master_keys": SecretStr(MASTER_KEYS),
        # No server listens there.
        "identity_address": "127.0.0.1:1",
    }
    return needed


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[aio.Channel]:
    """Starts the parts in order and yields a channel to the server; stops them in reverse order."""
    async with AsyncExitStack() as stack:
        for component in service.components:
            stack.push_async_callback(component.stop)
            await component.start()
        stack.push_async_callback(service.server.stop)
        await service.server.start()
        await service.server.serve()
        channel = aio.insecure_channel(service.server.address)
        stack.push_async_callback(channel.close)
        yield channel
