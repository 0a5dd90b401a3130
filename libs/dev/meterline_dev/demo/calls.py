"""Calls to the four services: stubs, a bound on concurrent calls, and retries of temporary errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import grpc
import stamina
from grpc import aio
from meterline_protos.aggregate.v1 import meters_pb2_grpc, reconciliation_pb2_grpc, usage_pb2_grpc
from meterline_protos.identity.v1 import tenants_pb2_grpc
from meterline_protos.ingest.v1 import event_types_pb2_grpc, events_pb2_grpc, quarantine_pb2_grpc
from meterline_protos.publisher.v1 import invoices_pb2_grpc, prices_pb2_grpc, publications_pb2_grpc

from meterline_dev.demo.errors import DemoError

T = TypeVar("T")
R = TypeVar("R")

CALL_SECONDS: Final = 30.0
AT_ONCE: Final = 8
_PATIENCE_SECONDS: Final = 90.0
_POLL_SECONDS: Final = 0.05
# A part that is not up yet, usage that is still on its way, a full queue: the same call will do.
_PASSING: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


class Services:
    """Stubs of every service. Use it as `async with`."""

    def __init__(self, channel: Callable[[str, Sequence[tuple[str, Any]]], aio.Channel]) -> None:
        """`channel` opens one to a service, with options."""
        self._channels = {
            name: channel(name, [("grpc.max_receive_message_length", 64 << 20)])
            for name in ("identity", "ingest", "aggregate", "publisher")
        }
        identity, ingest = self._channels["identity"], self._channels["ingest"]
        aggregate, publisher = self._channels["aggregate"], self._channels["publisher"]
        self.tenants: tenants_pb2_grpc.TenantsServiceAsyncStub = tenants_pb2_grpc.TenantsServiceStub(identity)
        self.event_types: event_types_pb2_grpc.EventTypesServiceAsyncStub = (
            event_types_pb2_grpc.EventTypesServiceStub(ingest)
        )
        self.quarantine: quarantine_pb2_grpc.QuarantineServiceAsyncStub = (
            quarantine_pb2_grpc.QuarantineServiceStub(ingest)
        )
        self.events: events_pb2_grpc.EventsServiceAsyncStub = events_pb2_grpc.EventsServiceStub(ingest)
        self.meters: meters_pb2_grpc.MetersServiceAsyncStub = meters_pb2_grpc.MetersServiceStub(aggregate)
        self.usage: usage_pb2_grpc.UsageServiceAsyncStub = usage_pb2_grpc.UsageServiceStub(aggregate)
        self.reconciliation: reconciliation_pb2_grpc.ReconciliationServiceAsyncStub = (
            reconciliation_pb2_grpc.ReconciliationServiceStub(aggregate)
        )
        self.prices: prices_pb2_grpc.PricesServiceAsyncStub = prices_pb2_grpc.PricesServiceStub(publisher)
        self.publications: publications_pb2_grpc.PublicationsServiceAsyncStub = (
            publications_pb2_grpc.PublicationsServiceStub(publisher)
        )
        self.invoices: invoices_pb2_grpc.InvoicesServiceAsyncStub = invoices_pb2_grpc.InvoicesServiceStub(
            publisher
        )

    async def __aenter__(self) -> Services:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


async def ask(call: Callable[..., Awaitable[R]], request: object) -> R:
    """Makes one call, and repeats it while its errors are temporary. Every write here is idempotent.

    Raises DemoError with the service's own words.
    """
    try:
        async for attempt in stamina.retry_context(
            on=_is_passing, attempts=None, timeout=_PATIENCE_SECONDS, wait_initial=0.1, wait_max=2.0
        ):
            with attempt:
                found = await call(request, timeout=CALL_SECONDS)
    except aio.AioRpcError as error:
        kind = type(request).__name__.removesuffix("Request")
        raise DemoError(f"{kind}: {error.code().name}: {error.details()}") from error
    return found


async def each(items: Iterable[T], work: Callable[[T], Awaitable[R]], at_once: int = AT_ONCE) -> list[R]:
    """What `work` makes of each item, in order; at most `at_once` at a time."""
    places = asyncio.Semaphore(at_once)

    async def one(item: T) -> R:
        async with places:
            return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except BaseExceptionGroup as failures:
        # The others were cancelled, so the first is why.
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def looks(
    look: Callable[[], Awaitable[R]], seconds: float, pause: float = _POLL_SECONDS
) -> AsyncIterator[R]:
    """What `look` answers, again and again until the caller has seen enough or `seconds` are over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        yield await look()
        if loop.time() >= deadline:
            return
        await asyncio.sleep(pause)


def _is_passing(error: Exception) -> bool:
    return isinstance(error, aio.AioRpcError) and error.code() in _PASSING
