"""Load with unlimited retries, and the oracle of the expected usage.

A reporter sends batches and repeats each, unchanged, until it is acknowledged. The oracle knows every event
with its quantity: in the end the mesh must have counted each exactly once, whatever was killed or lost
meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import LiteralString

import nats
import nats.errors
import nats.js.errors
import psycopg
from google.protobuf import struct_pb2
from grpc import aio
from meterline.bus.subjects import EVENTS_ACCEPTED
from meterline_dev.mesh import Mesh
from meterline_protos.aggregate.v1 import meters_pb2, meters_pb2_grpc
from meterline_protos.common.v1 import types_pb2
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc
from meterline_protos.ingest.v1 import (
    capture_pb2,
    capture_pb2_grpc,
    event_types_pb2,
    event_types_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
)
from meterline_protos.publisher.v1 import prices_pb2, prices_pb2_grpc
from nats.aio.client import Client

from tests.support.bus import unanswered
from tests.support.capture import Sample, rows
from tests.support.polling import eventually
from tests.support.usage import month_total

TENANTS = ("acme", "bolt", "cobra")
METERS = {"calls": types_pb2.AGGREGATION_COUNT, "units": types_pb2.AGGREGATION_SUM}
# Long enough for a killed service to restart, short enough that a lost answer does not stall the test.
CALL_SECONDS = 5.0


@dataclass
class Expected:
    """The expected usage: by tenant, the quantity of every event by its id."""

    units: dict[str, dict[str, int]] = field(default_factory=lambda: {tenant: {} for tenant in TENANTS})

    def add(self, tenant: str, samples: list[Sample]) -> None:
        self.units[tenant].update({sample.id: int(sample.quantities["units"]) for sample in samples})

    @property
    def events(self) -> int:
        return sum(map(len, self.units.values()))

    def usage(self) -> dict[str, tuple[int, int]]:
        """(count, sum) by tenant."""
        return {tenant: (len(units), sum(units.values())) for tenant, units in self.units.items()}


async def put_prices(mesh: Mesh) -> None:
    """Puts prices of the meters into the plan of all tenants."""
    async with mesh.channel("publisher") as channel:
        for meter, rate in (("calls", "0.01"), ("units", "0.0203")):
            body = struct_pb2.Struct()
            body.update({"model": "per_unit", "currency": "USD", "unit": rate})
            price = prices_pb2.Price(
                plan="basic",
                meter=meter,
                version=1,
                effective_date="2020-01-01",
                body=body,
                description=meter,
                billing_event_name=meter,
            )
            await prices_pb2_grpc.PricesServiceStub(channel).PutPrice(
                prices_pb2.PutPriceRequest(price=price), wait_for_ready=True
            )


async def prepare(mesh: Mesh, tenants: Sequence[str] = TENANTS) -> None:
    """Creates an event type, two meters, their prices if a publisher runs, and tenants, in the order of
    references. May be repeated while services restart."""
    identity, ingest, aggregate = (mesh.channel(name) for name in ("identity", "ingest", "aggregate"))
    try:
        quantity = event_types_pb2.QuantityDefinition(name="units", scale=0)
        region = event_types_pb2.DimensionDefinition(name="region")
        definition = event_types_pb2.EventType(name="api.request", quantities=[quantity], dimensions=[region])
        await event_types_pb2_grpc.EventTypesServiceStub(ingest).PutEventType(
            event_types_pb2.PutEventTypeRequest(event_type=definition)
        )
        for name, aggregation in METERS.items():
            meter = meters_pb2.Meter(
                name=name,
                event_type="api.request",
                aggregation=aggregation,
                quantity="units" if aggregation == types_pb2.AGGREGATION_SUM else "",
                group_by=["region"],
            )
            await meters_pb2_grpc.MetersServiceStub(aggregate).CreateMeter(
                meters_pb2.CreateMeterRequest(meter=meter)
            )
        if "publisher" in mesh.options.services:
            await put_prices(mesh)
        for tenant in tenants:
            await tenants_pb2_grpc.TenantsServiceStub(identity).OnboardTenant(
                tenants_pb2.OnboardTenantRequest(
                    tenant_id=tenant,
                    display_name=tenant,
                    time_zone="America/New_York",
                    currency="USD",
                    plan="basic",
                    external_customer_id=f"cus_{tenant}",
                    external_subscription_id=f"sub_{tenant}",
                )
            )
    finally:
        await asyncio.gather(identity.close(), ingest.close(), aggregate.close())
    await eventually(lambda: all(knows_tenants(mesh, service, tenants) for service in mesh.options.services))


def knows_tenants(mesh: Mesh, service: str, tenants: Collection[str]) -> bool:
    """Whether the service has received all these tenants. True for identity, which owns them."""
    if service == "identity":
        return True
    with psycopg.connect(mesh.admin_dsn()) as connection:
        known = connection.execute(f"SELECT slug FROM {service}.tenants".encode()).fetchall()
    return {slug for (slug,) in known} >= set(tenants)


class Reporter:
    """Sends batches to ingest until stopped."""

    def __init__(self, mesh: Mesh, expected: Expected, *, batch: int = 50, seed: int = 7) -> None:
        self._mesh = mesh
        self._expected = expected
        self._batch = batch
        self._random = random.Random(seed)
        self.acknowledged = 0
        self.repeated = 0
        self.failures: Counter[str] = Counter()
        self.progress = asyncio.Event()

    async def run(self, events: int) -> None:
        """Reports `events` events; returns when all are acknowledged."""
        async with self._channel() as channel:
            stub = capture_pb2_grpc.CaptureServiceStub(channel)
            for start in range(0, events, self._batch):
                await self._report(stub, min(self._batch, events - start))

    async def run_until(self, stop: asyncio.Event) -> None:
        async with self._channel() as channel:
            stub = capture_pb2_grpc.CaptureServiceStub(channel)
            while not stop.is_set():
                await self._report(stub, self._batch)

    async def deliver(self, requests: Iterable[capture_pb2.ReportRequest]) -> None:
        """Repeats these requests until they are acknowledged. The caller adds their events to the oracle."""
        async with self._channel() as channel:
            stub = capture_pb2_grpc.CaptureServiceStub(channel)
            for request in requests:
                await self._deliver(stub, request)

    def _channel(self) -> aio.Channel:
        quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        return self._mesh.channel("ingest", quick)

    async def _report(self, stub: capture_pb2_grpc.CaptureServiceAsyncStub, events: int) -> None:
        tenant = self._random.choice(TENANTS)
        samples = [
            Sample(
                quantities={"units": str(self._random.randrange(1_000))},
                dimensions={"region": f"r{self._random.randrange(20)}"},
            )
            for _ in range(events)
        ]
        self._expected.add(tenant, samples)
        await self._deliver(stub, rows(*samples, tenant_id=tenant))
        self.acknowledged += events
        self.progress.set()

    async def _deliver(
        self, stub: capture_pb2_grpc.CaptureServiceAsyncStub, request: capture_pb2.ReportRequest
    ) -> None:
        while not await self._attempt(stub, request):
            self.repeated += 1

    async def _attempt(
        self, stub: capture_pb2_grpc.CaptureServiceAsyncStub, request: capture_pb2.ReportRequest
    ) -> bool:
        try:
            answer = await stub.Report(request, timeout=CALL_SECONDS, wait_for_ready=True)
        except aio.AioRpcError as error:
            self.failures[error.code().name] += 1
            return False
        # Every event was accepted, now or in an attempt whose answer was lost.
        assert answer.accepted + answer.duplicate == len(request.rows.events), answer
        return True

    async def more(self, events: int, *, seconds: float = 60.0) -> None:
        """Waits until `events` more events are acknowledged."""
        goal = self.acknowledged + events
        async with asyncio.timeout(seconds):
            while self.acknowledged < goal:
                self.progress.clear()
                await self.progress.wait()


async def counted(mesh: Mesh, tenants: Iterable[str] = TENANTS) -> dict[str, tuple[int, int]]:
    """(count, sum) by tenant, from QueryUsage."""
    found = {}
    async with mesh.channel("aggregate") as channel:
        for tenant in tenants:
            calls, units = [await month_total(channel, tenant, meter) for meter in METERS]
            found[tenant] = (int(calls), int(units))
    return found


async def accepted(mesh: Mesh) -> dict[str, int]:
    """Stored raw events by tenant."""
    async with mesh.channel("ingest") as channel:
        answer = await events_pb2_grpc.EventsServiceStub(channel).GetTotals(
            events_pb2.GetTotalsRequest(), timeout=10, wait_for_ready=True
        )
    return {total.tenant_id: total.accepted for total in answer.totals}


async def wait_until_settled(mesh: Mesh, *, seconds: float = 60.0) -> None:
    """Waits until the outbox of ingest is empty and aggregate has acknowledged all messages of its stream.

    Raises AssertionError when messages are still in flight after `seconds`.
    """
    client = await nats.connect(mesh.nats.url)
    try:
        with psycopg.connect(mesh.admin_dsn(), autocommit=True) as connection:
            await eventually(partial(_settled, connection, client), seconds=seconds)
    finally:
        await client.close()


async def _settled(connection: psycopg.Connection, client: Client) -> bool:
    pending = connection.execute("SELECT count(*) FROM ingest.outbox WHERE published_at IS NULL")
    if pending.fetchone() != (0,):
        return False
    try:
        name = EVENTS_ACCEPTED.consumer_name("aggregate")
        return await unanswered(client, EVENTS_ACCEPTED.stream, name) == 0
    except (nats.errors.TimeoutError, nats.js.errors.Error):
        return False


async def is_exact(mesh: Mesh, expected: Expected, *, seconds: float = 60.0) -> bool:
    """Whether every event is stored once and counted once, after the mesh has settled.

    Aggregate skips a copy of a message under another id: sums stay right, but the message was published
    twice, which is a failure too. So is a dead letter.

    Raises AssertionError when the mesh has not settled after `seconds`.
    """
    await wait_until_settled(mesh, seconds=seconds)
    usage = expected.usage()
    stored = {tenant: count for tenant, (count, _) in usage.items() if count}
    exact = await accepted(mesh) == stored and await counted(mesh, usage) == usage
    return exact and dead_letters(mesh) == copies(mesh) == 0


def dead_letters(mesh: Mesh) -> int:
    """The number of open dead letters of aggregate."""
    return _number(mesh, "SELECT count(*) FROM aggregate.dead_letters WHERE state = 'open'")


def copies(mesh: Mesh) -> int:
    """The number of messages that aggregate has handled but neither applied nor buried: copies."""
    handled = "SELECT count(*) FROM aggregate.inbox WHERE consumer = 'aggregate-events'"
    applied = _number(mesh, "SELECT count(*) FROM aggregate.applied_messages")
    return _number(mesh, handled) - applied - dead_letters(mesh)


def _number(mesh: Mesh, query: LiteralString) -> int:
    with psycopg.connect(mesh.admin_dsn()) as connection:
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


async def assert_exact(mesh: Mesh, expected: Expected) -> None:
    assert await is_exact(mesh, expected)


async def assert_counted(mesh: Mesh, expected: Expected) -> None:
    """Like `assert_exact`, but only for these tenants: messages of others may be resent."""
    await wait_until_settled(mesh, seconds=120)
    usage = expected.usage()
    stored = await accepted(mesh)
    assert {name: stored.get(name, 0) for name in usage} == {
        name: count for name, (count, _) in usage.items()
    }
    assert await counted(mesh, usage) == usage
    assert dead_letters(mesh) == 0
