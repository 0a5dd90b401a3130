"""Runs one service: starts its parts in order, waits for a signal, stops them in reverse."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import uvloop
from prometheus_client import start_http_server

from meterline import tasks
from meterline.bus.safety import require_logins, require_synced_jetstream
from meterline.config import ServiceSettings
from meterline.rpc.server import Server
from meterline.telemetry import logging, tracing


class Component(Protocol):
    """Something with a lifecycle: stop before start, and either of them twice, do no harm."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Service(Protocol):
    """A wired service, as a `main` builds it."""

    @property
    def components(self) -> Sequence[Component]:
        """In the order of their start; the server is not among them."""

    @property
    def server(self) -> Server: ...


def run(name: str, settings: ServiceSettings, build: Callable[[], Service]) -> None:
    """Runs until SIGTERM or SIGINT. Prints one JSON line on stdout when the service is ready."""
    logging.set_up(name, settings.log_level)
    provider = tracing.set_up(name)
    try:
        uvloop.run(_run(name, settings, build))
    finally:
        provider.shutdown()


async def _run(name: str, settings: ServiceSettings, build: Callable[[], Service]) -> None:
    log = logging.logger()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        # Starting waits while a server that this one needs is unavailable.
        if await _done_before(stopped, _start(name, settings, build, stack)):
            log.info("service.ready")
            await stopped.wait()
        log.info("service.stopping")
    log.info("service.stopped")


async def _start(
    name: str, settings: ServiceSettings, build: Callable[[], Service], stack: AsyncExitStack
) -> None:
    if not settings.allow_unsynced_jetstream:
        await require_synced_jetstream(settings.nats_monitor_url)
    if not settings.allow_open_broker:
        await require_logins(settings.nats_url.get_secret_value())
    service = build()
    for component in service.components:
        stack.push_async_callback(component.stop)
        await component.start()
    stack.push_async_callback(service.server.stop)
    await service.server.start()
    metrics_port = _serve_metrics(settings)
    # What was made until now stays: no later collection has to walk through it.
    gc.collect()
    gc.freeze()
    await service.server.serve()
    announcement = {"service": name, "grpc": service.server.address, "metrics": metrics_port}
    print(json.dumps(announcement | {"pid": os.getpid()}), flush=True)  # noqa: T201 - the contract


async def _done_before(stopped: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether `work` ended first; else it is cancelled. Raises what it raises."""
    task = asyncio.create_task(work)
    stop = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        await tasks.end(stop)
        await tasks.end(task)


def _serve_metrics(settings: ServiceSettings) -> int | None:
    if settings.metrics_port < 0:
        return None
    server, _ = start_http_server(settings.metrics_port, settings.bind_host)
    return int(server.server_port)
