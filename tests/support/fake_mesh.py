"""A fake of ingest and aggregate for tests of the publisher: real gRPC servers over events in memory.

Windows and contributions are computed from the stored events by simple loops, so that all answers of the fake
agree with what a test has captured.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from grpc_status import rpc_status
from meterline.errors import NotFoundError
from meterline.rpc.errors import to_status
from meterline_protos.aggregate.v1 import meters_pb2, meters_pb2_grpc, usage_pb2, usage_pb2_grpc
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2 as facts_pb2
from meterline_protos.ingest.v1 import events_pb2, events_pb2_grpc

HOUR = timedelta(hours=1)

Context = aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Event:
    """An event to capture. `value` is the quantity `amount`; None: the event has no quantity."""

    time: datetime
    type: str = "call"
    value: str | None = "1"
    dimensions: dict[str, str] = field(default_factory=dict)


@dataclass
class _Tenant:
    number: int
    zone: ZoneInfo
    batches: dict[str, events_pb2.Batch] = field(default_factory=dict)
    events: list[events_pb2.StoredEvent] = field(default_factory=list)
    revisions: dict[tuple[str, datetime], int] = field(default_factory=dict)
    expired: bool = False


class FakeMesh:
    """Fake of ingest and aggregate: keeps captured events and meters in memory."""

    def __init__(self) -> None:
        self.tenants: dict[str, _Tenant] = {}
        self.meters: dict[str, meters_pb2.Meter] = {}
        self.referred: set[str] = set()
        self.asked: list[str] = []
        self.page_limit = 1_000
        # Tenants and meters whose months are being rebuilt.
        self.rebuilding: set[tuple[str, str]] = set()

    def add_tenant(self, slug: str, number: int, zone: str) -> None:
        self.tenants[slug] = _Tenant(number, ZoneInfo(zone))

    def add_meter(self, name: str, event_type: str = "call", **more: Any) -> None:
        """A sum of `amount` by default. `more`: further fields of the meter, or other values of these."""
        definition: dict[str, Any] = {"aggregation": types_pb2.AGGREGATION_SUM, "quantity": "amount"} | more
        self.meters[name] = meters_pb2.Meter(name=name, event_type=event_type, **definition)

    def capture(
        self,
        slug: str,
        events: Iterable[Event],
        trace: types_pb2.TraceContext | None = None,
        retracted: Iterable[events_pb2.StoredEvent] = (),
    ) -> facts_pb2.UsageWindowsChanged:
        """Accepts one batch of events and of retractions of the events in `retracted`.

        Returns the fact that the aggregate service would publish.
        """
        tenant = self.tenants[slug]
        batch_id = str(uuid.UUID(int=(len(tenant.batches) + 1) << 64))
        stored = [_retraction(batch_id, event) for event in retracted]
        stored += [_stored(slug, batch_id, event) for event in events]
        tenant.events += stored
        tenant.batches[batch_id] = events_pb2.Batch(
            batch_id=batch_id,
            tenant_id=slug,
            source="test",
            event_count=len(stored),
            trace=trace,
            message_id=str(uuid.uuid4()),
        )
        touched = {
            (name, month_start(at(event), tenant.zone))
            for event in stored
            for name, meter in self.meters.items()
            if counts(meter, event)
        }
        for key in touched:
            tenant.revisions[key] = tenant.revisions.get(key, 0) + 1
        return facts_pb2.UsageWindowsChanged(
            windows=[self._fact(tenant, name, start, trace) for name, start in sorted(touched)]
        )

    def expire(self, slug: str) -> None:
        """Drops the tenant's raw events, as retention does; windows and contributions stay."""
        self.tenants[slug].expired = True

    def value(self, slug: str, meter: str, start: datetime, end: datetime) -> tuple[Decimal, int]:
        """The value of a meter in [start, end), and the number of its events."""
        definition = self.meters[meter]
        found = [
            event
            for event in self.tenants[slug].events
            if counts(definition, event) and start <= at(event) < end
        ]
        count = sum(_sign(event) for event in found)
        if definition.aggregation == types_pb2.AGGREGATION_COUNT:
            return Decimal(count), count
        if definition.aggregation == types_pb2.AGGREGATION_UNIQUE:
            members: Counter[str] = Counter()
            for event in found:
                members[_member(definition, event)] += _sign(event)
            return Decimal(sum(left > 0 for left in members.values())), count
        values = (_sign(event) * Decimal(event.quantities[definition.quantity]) for event in found)
        return sum(values, Decimal(0)), count

    def _fact(
        self, tenant: _Tenant, meter: str, start: datetime, trace: types_pb2.TraceContext | None
    ) -> facts_pb2.UsageWindow:
        slug = next(name for name, known in self.tenants.items() if known is tenant)
        end = next_month(start, tenant.zone)
        value, count = self.value(slug, meter, start, end)
        return facts_pb2.UsageWindow(
            tenant_id=tenant.number,
            meter=meter,
            start_time=timestamp(start),
            end_time=timestamp(end),
            value=str(value),
            event_count=count,
            revision=tenant.revisions[meter, start],
            aggregation=self.meters[meter].aggregation,
            trace=trace,
        )


class FakeMeters(meters_pb2_grpc.MetersServiceServicer):
    def __init__(self, mesh: FakeMesh) -> None:
        self._mesh = mesh

    async def ListMeters(
        self, request: meters_pb2.ListMetersRequest, context: Context
    ) -> meters_pb2.ListMetersResponse:
        return meters_pb2.ListMetersResponse(meters=self._mesh.meters.values())

    async def ReferToMeter(
        self, request: meters_pb2.ReferToMeterRequest, context: Context
    ) -> meters_pb2.ReferToMeterResponse:
        if request.name not in self._mesh.meters:
            await not_found(context, NotFoundError("meter", request.name))
        self._mesh.referred.add(request.name)
        return meters_pb2.ReferToMeterResponse(meter=self._mesh.meters[request.name])


class FakeUsage(usage_pb2_grpc.UsageServiceServicer):
    def __init__(self, mesh: FakeMesh) -> None:
        self._mesh = mesh

    async def QueryUsage(
        self, request: usage_pb2.QueryUsageRequest, context: Context
    ) -> usage_pb2.QueryUsageResponse:
        self._mesh.asked.append(f"QueryUsage {request.tenant_id} {request.meter}")
        if request.tenant_id not in self._mesh.tenants:
            await not_found(context, NotFoundError("tenant", request.tenant_id))
        if request.meter not in self._mesh.meters:
            await not_found(context, NotFoundError("meter", request.meter))
        tenant = self._mesh.tenants[request.tenant_id]
        first, last = range_of(request.range)
        windows = []
        grain = request.grain
        start = month_start(first, tenant.zone) if grain == types_pb2.GRAIN_MONTH else first
        while start < last:
            end = next_month(start, tenant.zone) if grain == types_pb2.GRAIN_MONTH else start + 24 * HOUR
            value, count = self._mesh.value(request.tenant_id, request.meter, start, end)
            revision = tenant.revisions.get((request.meter, start), 0)
            if (count or revision) and start >= first:
                windows.append(
                    usage_pb2.Window(
                        start_time=timestamp(start),
                        end_time=timestamp(end),
                        value=str(value),
                        event_count=count,
                        revision=revision,
                        aggregation=self._mesh.meters[request.meter].aggregation,
                        rebuilding=(request.tenant_id, request.meter) in self._mesh.rebuilding,
                        window_id=f"{request.meter}/{types_pb2.Grain.Name(grain)[6:].lower()}"
                        f"/{int(start.timestamp())}/",
                    )
                )
            start = end
        return usage_pb2.QueryUsageResponse(windows=windows)

    async def ListContributions(
        self, request: usage_pb2.ListContributionsRequest, context: Context
    ) -> usage_pb2.ListContributionsResponse:
        first, last = range_of(request.range)
        found = [
            item
            for item in contributions(self._mesh, request.tenant_id, {request.meter})
            if first <= item.hour_start.ToDatetime(tzinfo=UTC) < last
        ]
        page, token = page_of(found, min(request.page_size, self._mesh.page_limit), request.page_token)
        return usage_pb2.ListContributionsResponse(contributions=page, next_page_token=token)

    async def FindContributions(
        self, request: usage_pb2.FindContributionsRequest, context: Context
    ) -> usage_pb2.FindContributionsResponse:
        found = contributions(self._mesh, request.tenant_id, set(self._mesh.meters))
        return usage_pb2.FindContributionsResponse(
            contributions=[item for item in found if item.batch_id == request.batch_id]
        )


class FakeEvents(events_pb2_grpc.EventsServiceServicer):
    def __init__(self, mesh: FakeMesh) -> None:
        self._mesh = mesh

    async def GetEvent(
        self, request: events_pb2.GetEventRequest, context: Context
    ) -> events_pb2.GetEventResponse:
        tenant = self._mesh.tenants[request.tenant_id]
        # The latest stored row is the current state of the event.
        for event in reversed(tenant.events):
            if event.event_id == request.event_id:
                return events_pb2.GetEventResponse(event=event, batch=tenant.batches[event.batch_id])
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such event")
        raise AssertionError("abort returned")

    async def ListEvents(
        self, request: events_pb2.ListEventsRequest, context: Context
    ) -> events_pb2.ListEventsResponse:
        first, last = range_of(request.time)
        tenant = self._mesh.tenants[request.tenant_id]
        found = [
            event
            for event in tenant.events
            if not tenant.expired
            and event.batch_id in request.batch_ids
            and request.type in ("", event.type)
            and first <= at(event) < last
        ]
        found.sort(key=at)
        page, token = page_of(found, min(request.page_size, self._mesh.page_limit), request.page_token)
        return events_pb2.ListEventsResponse(events=page, next_page_token=token)

    async def GetBatches(
        self, request: events_pb2.GetBatchesRequest, context: Context
    ) -> events_pb2.GetBatchesResponse:
        known = self._mesh.tenants[request.tenant_id].batches
        return events_pb2.GetBatchesResponse(
            batches=[known[batch_id] for batch_id in request.batch_ids if batch_id in known]
        )


@asynccontextmanager
async def serving(mesh: FakeMesh) -> AsyncIterator[str]:
    """Runs one server for the services of both; yields its address, host:port."""
    server = aio.server()
    # RPCs that the publisher never calls keep their generated answer: UNIMPLEMENTED.
    meters: Any = FakeMeters(mesh)  # type: ignore[abstract]
    usage: Any = FakeUsage(mesh)  # type: ignore[abstract]
    events: Any = FakeEvents(mesh)  # type: ignore[abstract]
    meters_pb2_grpc.add_MetersServiceServicer_to_server(meters, server)
    usage_pb2_grpc.add_UsageServiceServicer_to_server(usage, server)
    events_pb2_grpc.add_EventsServiceServicer_to_server(events, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def not_found(context: Context, error: NotFoundError) -> None:
    """Ends a call with the status that the services' own server would send."""
    status = rpc_status.to_status(to_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)


def contributions(mesh: FakeMesh, slug: str, meters: set[str]) -> list[usage_pb2.Contribution]:
    """What each batch added to each hour of each meter, in the order of hours, then batches."""
    found: dict[tuple[datetime, str, str], list[events_pb2.StoredEvent]] = {}
    for event in mesh.tenants[slug].events:
        for name in sorted(meters):
            if counts(mesh.meters[name], event):
                hour = at(event).replace(minute=0, second=0, microsecond=0)
                found.setdefault((hour, event.batch_id, name), []).append(event)
    return [
        usage_pb2.Contribution(
            batch_id=batch_id,
            meter=name,
            hour_start=timestamp(hour),
            hour_end=timestamp(hour + HOUR),
            event_count=sum(_sign(event) for event in events),
        )
        for (hour, batch_id, name), events in sorted(found.items(), key=lambda item: item[0])
    ]


def counts(meter: meters_pb2.Meter, event: events_pb2.StoredEvent) -> bool:
    """Whether the meter counts the event, by the rules of aggregate."""
    return (
        event.type == meter.event_type
        and all(event.dimensions.get(name) == value for name, value in meter.filter.items())
        and (not meter.quantity or meter.quantity in event.quantities)
        and (meter.aggregation != types_pb2.AGGREGATION_UNIQUE or bool(_member(meter, event)))
    )


def _member(meter: meters_pb2.Meter, event: events_pb2.StoredEvent) -> str:
    """The value that a unique meter counts. An empty one is not counted."""
    return event.dimensions.get(meter.unique_dimension, "") if meter.unique_dimension else event.subject


def page_of(items: Sequence[Any], size: int, token: str) -> tuple[Sequence[Any], str]:
    start = int(token or 0)
    return items[start : start + size], str(start + size) if start + size < len(items) else ""


def month_start(moment: datetime, zone: ZoneInfo) -> datetime:
    local = moment.astimezone(zone)
    return local.replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0).astimezone(UTC)


def next_month(start: datetime, zone: ZoneInfo) -> datetime:
    return month_start(start + timedelta(days=32), zone)


def range_of(value: types_pb2.TimeRange) -> tuple[datetime, datetime]:
    return value.start_time.ToDatetime(tzinfo=UTC), value.end_time.ToDatetime(tzinfo=UTC)


def at(event: events_pb2.StoredEvent) -> datetime:
    return event.time.ToDatetime(tzinfo=UTC)


def timestamp(moment: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(moment)
    return found


def _stored(slug: str, batch_id: str, event: Event) -> events_pb2.StoredEvent:
    return events_pb2.StoredEvent(
        event_id=str(uuid.uuid4()),
        tenant_id=slug,
        type=event.type,
        subject="someone",
        time=timestamp(event.time),
        dimensions=event.dimensions,
        quantities={} if event.value is None else {"amount": event.value},
        batch_id=batch_id,
    )


def _retraction(batch_id: str, event: events_pb2.StoredEvent) -> events_pb2.StoredEvent:
    found = events_pb2.StoredEvent()
    found.CopyFrom(event)
    found.batch_id, found.retracted = batch_id, True
    return found


def _sign(event: events_pb2.StoredEvent) -> int:
    return -1 if event.retracted else 1
