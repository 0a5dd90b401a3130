"""A service in a separate process, as in production."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from meterline_dev.servers import NatsServer

from tests.support.databases import TestDatabase
from tests.support.services import MASTER_KEYS


def environment_of(service: str, database: TestDatabase, broker: NatsServer) -> dict[str, str]:
    """The environment of the process, without the settings of this process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
    return {
        **inherited,
        "METERLINE_DATABASE_URL": database.app_dsn(service),
        "METERLINE_OWNER_DATABASE_URL": database.owner_dsn(service),
        "METERLINE_NATS_URL": broker.url,
        "METERLINE_NATS_MONITOR_URL": broker.monitor_url,
        # Test brokers have no logins, except in tests of logins.
        "METERLINE_ALLOW_OPEN_BROKER": "true",
        "METERLINE_SHUTDOWN_GRACE_SECONDS": "2",
        "METERLINE_AUTHENTICATION": "off",
        "METERLINE_MASTER_KEYS": MASTER_KEYS,
    }


@dataclass
class ServiceProcess:
    """A running process; `ready` is the line with which it announced its readiness."""

    process: asyncio.subprocess.Process
    ready: dict[str, Any]

    @property
    def address(self) -> str:
        return str(self.ready["grpc"])

    async def ended(self, seconds: float = 15.0) -> int:
        """Waits for the end; returns the exit code, negative for a signal."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()


@asynccontextmanager
async def launched(
    module: str, environment: Mapping[str, str], *arguments: str, stderr: int = asyncio.subprocess.DEVNULL
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs `python -m module` with arguments; kills it at the end if it still runs. `stderr` may be PIPE."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        env=dict(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def service_process(module: str, environment: Mapping[str, str]) -> AsyncIterator[ServiceProcess]:
    """Like `launched`, but waits for the ready line. Raises AssertionError if the process ends before."""
    async with launched(module, environment) as process:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        assert line, f"{module} ended before it was ready, with code {await process.wait()}"
        yield ServiceProcess(process, json.loads(line))
