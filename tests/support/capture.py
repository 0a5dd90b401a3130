"""Events for tests, in both forms that capture accepts, and ingest inside the test's own process."""

from __future__ import annotations

import itertools
import re
import struct
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from grpc import aio
from meterline.bus.connection import Bus
from meterline.bus.subjects import EVENTS_ACCEPTED, FACTS, TENANTS_CHANGED
from meterline.clock import Clock, SystemClock
from meterline.ids import new_id
from meterline_dev.servers import NatsServer
from meterline_ingest.main import Ingest
from meterline_ingest.settings import IngestSettings
from meterline_protos.events.v1 import events_pb2 as facts_pb2
from meterline_protos.ingest.v1 import (
    capture_pb2,
    capture_pb2_grpc,
    event_types_pb2,
    event_types_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    limits_pb2,
    limits_pb2_grpc,
)

from tests.support.bus import delete_streams
from tests.support.databases import Databases, TestDatabase
from tests.support.polling import eventually
from tests.support.services import running, settings_for
from tests.support.spans import exporter

T = TypeVar("T")
# Numbers of tenants; those below are chosen by tests.
_numbers = itertools.count(1_000)
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def now_us() -> int:
    return time.time_ns() // 1_000


@dataclass
class Sample:
    """One event, independent of its form."""

    type: str = "api.request"
    subject: str = "u1"
    time_us: int = field(default_factory=now_us)
    dimensions: Mapping[str, str] = field(default_factory=lambda: {"region": "eu"})
    quantities: Mapping[str, str] = field(default_factory=lambda: {"units": "1"})
    properties: Mapping[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(new_id()))
    tenant_id: str = ""
    # Only rows can omit their time.
    timed: bool = True

    def to_row(self) -> capture_pb2.Event:
        event = capture_pb2.Event(
            id=self.id,
            tenant_id=self.tenant_id,
            type=self.type,
            subject=self.subject,
            dimensions=self.dimensions,
            quantities=self.quantities,
            properties=self.properties,
        )
        # Not with a method of Timestamp, which would refuse the invalid times of some tests.
        if self.timed:
            seconds, rest = divmod(self.time_us, 1_000_000)
            event.time.seconds, event.time.nanos = seconds, rest * 1_000
        return event


def rows(*samples: Sample, tenant_id: str = "acme", source: str = "test") -> capture_pb2.ReportRequest:
    return capture_pb2.ReportRequest(
        tenant_id=tenant_id,
        source=source,
        rows=capture_pb2.EventRows(events=[sample.to_row() for sample in samples]),
    )


def columns(*samples: Sample, tenant_id: str = "acme", source: str = "test") -> capture_pb2.ReportRequest:
    """The same events as columns. Quantities must have no exponent, and must fit 64 bits at the most decimals
    of any quantity of the same name."""
    tenants = [sample.tenant_id or tenant_id for sample in samples]
    sets = [tuple(sorted(sample.dimensions.items())) for sample in samples]
    properties = [tuple(sorted(sample.properties.items())) for sample in samples]
    names = sorted({name for sample in samples for name in sample.quantities})
    scales = {name: max(_decimals(sample.quantities.get(name, "0")) for sample in samples) for name in names}
    as_uuids = all(_UUID.fullmatch(sample.id) for sample in samples)
    message = capture_pb2.EventColumns(
        event_ids=b"".join(uuid.UUID(sample.id).bytes for sample in samples) if as_uuids else b"",
        text_ids=() if as_uuids else [sample.id for sample in samples],
        times_us=struct.pack(f"<{len(samples)}q", *(sample.time_us for sample in samples)),
        dimension_sets=[capture_pb2.DimensionSet(values=dict(each)) for each in _distinct(sets)],
        dimension_set_index=_index(sets),
        property_sets=[capture_pb2.PropertySet(values=dict(each)) for each in _distinct(properties)],
        property_set_index=_index(properties),
        tenants=_distinct(tenants),
        tenant_index=_index(tenants),
        types=_distinct([sample.type for sample in samples]),
        type_index=_index([sample.type for sample in samples]),
        subjects=_distinct([sample.subject for sample in samples]),
        subject_index=_index([sample.subject for sample in samples]),
        quantities=[
            capture_pb2.QuantityColumn(
                name=name,
                scale=scales[name],
                units=struct.pack(
                    f"<{len(samples)}q",
                    *(_units(sample.quantities.get(name, "0"), scales[name]) for sample in samples),
                ),
                present=bytes(name in sample.quantities for sample in samples),
            )
            for name in names
        ],
    )
    return capture_pb2.ReportRequest(tenant_id=tenant_id, source=source, columns=message)


def _decimals(text: str) -> int:
    return len(text.partition(".")[2])


def _units(text: str, scale: int) -> int:
    return int(text.replace(".", "") + "0" * (scale - _decimals(text)))


def _distinct(values: Sequence[T]) -> list[T]:
    return list(dict.fromkeys(values))


def _index(values: Sequence[object]) -> bytes:
    positions = {value: at for at, value in enumerate(dict.fromkeys(values))}
    return struct.pack(f"<{len(values)}I", *(positions[value] for value in values))


@dataclass
class RunningIngest:
    """A running ingest service and stubs to it, for one of its tenants."""

    channel: aio.Channel
    bus: Bus
    address: str
    database: TestDatabase
    tenant: str = "acme"
    number: int = 1

    def rows(self, *samples: Sample, **more: Any) -> capture_pb2.ReportRequest:
        """A call with events of the tenant."""
        return rows(*samples, **({"tenant_id": self.tenant} | more))

    def columns(self, *samples: Sample, **more: Any) -> capture_pb2.ReportRequest:
        return columns(*samples, **({"tenant_id": self.tenant} | more))

    @property
    def capture(self) -> capture_pb2_grpc.CaptureServiceAsyncStub:
        return capture_pb2_grpc.CaptureServiceStub(self.channel)

    @property
    def events(self) -> events_pb2_grpc.EventsServiceAsyncStub:
        return events_pb2_grpc.EventsServiceStub(self.channel)

    @property
    def types(self) -> event_types_pb2_grpc.EventTypesServiceAsyncStub:
        return event_types_pb2_grpc.EventTypesServiceStub(self.channel)

    @property
    def limits(self) -> limits_pb2_grpc.LimitsServiceAsyncStub:
        return limits_pb2_grpc.LimitsServiceStub(self.channel)

    async def limit_plan(self, rate: int, burst: int = 0, *, plan: str = "basic", weight: int = 0) -> None:
        limits = limits_pb2.Limits(events_per_second=rate, burst=burst, weight=weight)
        await self.limits.PutPlanLimits(limits_pb2.PutPlanLimitsRequest(plan=plan, limits=limits))

    async def limit_tenant(self, slug: str, rate: int, burst: int = 0, *, weight: int = 0) -> None:
        limits = limits_pb2.Limits(events_per_second=rate, burst=burst, weight=weight)
        await self.limits.PutTenantLimits(limits_pb2.PutTenantLimitsRequest(tenant_id=slug, limits=limits))

    async def report(self, request: capture_pb2.ReportRequest) -> capture_pb2.ReportResponse:
        response: capture_pb2.ReportResponse = await self.capture.Report(request, timeout=20)
        return response

    async def onboard(self, number: int, slug: str, *, version: int = 1, active: bool = True) -> None:
        """Publishes the fact of a tenant like identity."""
        fact = facts_pb2.TenantChanged(
            tenant_id=number,
            slug=slug,
            version=version,
            time_zone="America/New_York",
            currency="USD",
            plan="basic",
            active=active,
        )
        fact.changed_at.GetCurrentTime()
        await self.bus.jetstream().publish(
            TENANTS_CHANGED.subject, fact.SerializeToString(), headers={"Nats-Msg-Id": str(new_id())}
        )

    async def put_type(
        self,
        name: str = "api.request",
        *,
        quantities: Sequence[event_types_pb2.QuantityDefinition] = (),
        dimensions: Sequence[str] = ("region",),
        required: Collection[str] = (),
        subject_required: bool = False,
    ) -> None:
        definition = event_types_pb2.EventType(
            name=name,
            quantities=quantities or [event_types_pb2.QuantityDefinition(name="units", scale=2)],
            dimensions=[
                event_types_pb2.DimensionDefinition(name=each, required=each in required)
                for each in dimensions
            ],
            subject_required=subject_required,
        )
        await self.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=definition))


@asynccontextmanager
async def running_ingest(
    database: TestDatabase,
    broker: NatsServer,
    *,
    identity_address: str = "127.0.0.1:1",
    clock: Clock | None = None,
    **settings: object,
) -> AsyncIterator[RunningIngest]:
    """Runs ingest wired as in production. The default address of identity has no server."""
    known = settings_for("ingest", database, broker) | {"identity_address": identity_address} | settings
    service = Ingest(IngestSettings(**known), clock or SystemClock())  # type: ignore[arg-type]
    bus = Bus(broker.url, name="test")
    async with running(service) as channel:
        await bus.start()
        await bus.ensure_streams(*FACTS)
        try:
            yield RunningIngest(channel, bus, service.server.address, database)
        finally:
            await bus.stop()


@asynccontextmanager
async def module_ingest(
    databases: Databases, broker: NatsServer, **settings: Any
) -> AsyncIterator[RunningIngest]:
    """Ingest for the tests of a module, on the emptied broker and a database of its own, with one tenant,
    `acme`, and one event type, `api.request`."""
    exporter()
    with databases.lent("ingest") as database:
        broker.start()
        await delete_streams(broker.url)
        async with running_ingest(database, broker, **settings) as service:
            await service.put_type()
            await service.onboard(1, "acme")
            await eventually(lambda: is_known(service, "acme"))
            yield service


async def is_known(service: RunningIngest, tenant_id: str) -> bool:
    """Whether ingest knows the tenant. There is no identity service to ask."""
    try:
        await service.events.GetTotals(events_pb2.GetTotalsRequest(tenant_id=tenant_id))
    except aio.AioRpcError:
        return False
    return True


async def new_tenant(ingest: RunningIngest) -> RunningIngest:
    """The same service, for a new tenant."""
    number = next(_numbers)
    own = replace(ingest, tenant=f"tenant-{number}", number=number)
    await own.onboard(number, own.tenant)
    await eventually(lambda: is_known(own, own.tenant))
    return own


async def published(ingest: RunningIngest, messages: int) -> list[facts_pb2.EventsAccepted]:
    """The first `messages` messages of the tenant."""
    jetstream = ingest.bus.jetstream()
    subscription = await jetstream.pull_subscribe(EVENTS_ACCEPTED.subject, stream=EVENTS_ACCEPTED.stream)
    received: list[facts_pb2.EventsAccepted] = []
    while len(received) < messages:
        for message in await subscription.fetch(1, timeout=5):
            fact = facts_pb2.EventsAccepted.FromString(message.data)
            if fact.series[0].tenant_id == ingest.number:
                received.append(fact)
    return received


async def stored(ingest: RunningIngest) -> int:
    """The number of stored events of the tenant."""
    totals = await ingest.events.GetTotals(events_pb2.GetTotalsRequest(tenant_id=ingest.tenant))
    return totals.totals[0].accepted if totals.totals else 0
