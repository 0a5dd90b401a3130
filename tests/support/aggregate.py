"""Aggregate running inside the test, fed with messages like those of ingest, and the expected usage.

The expected usage is computed from single events, with decimals and the calendar of the standard library, by
code that shares nothing with the service.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from meterline.bus.connection import Bus
from meterline.bus.subjects import EVENTS_ACCEPTED, TENANTS_CHANGED, events_accepted
from meterline.clock import Clock, SystemClock, to_us
from meterline.ids import new_id
from meterline_aggregate.main import Aggregate
from meterline_aggregate.settings import AggregateSettings
from meterline_dev.servers import NatsServer
from meterline_protos.aggregate.v1 import (
    meters_pb2,
    meters_pb2_grpc,
    reconciliation_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2
from meterline_protos.operations.v1 import dead_letters_pb2_grpc

from tests.support.bus import unanswered
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.services import running, settings_for

CONSUMER = EVENTS_ACCEPTED.consumer_name("aggregate")

Grain: TypeAlias = types_pb2.Grain.ValueType


@dataclass(frozen=True)
class Event:
    """An accepted event. Quantities are decimals."""

    tenant: int
    time: datetime
    type: str = "flight"
    subject: str = "N12345"
    dimensions: Mapping[str, str] = field(default_factory=dict)
    quantities: Mapping[str, str] = field(default_factory=dict)


def accepted(
    *batches: Sequence[Event],
    batch_ids: Sequence[uuid.UUID] = (),
    trace: types_pb2.TraceContext | None = None,
    scale: int = 3,
    origins: Sequence[Sequence[uuid.UUID]] = (),
) -> events_pb2.EventsAccepted:
    """The message of these batches. All quantities have the same scale.

    origins: the origin batches of the first rows of each batch, which are retractions
    """
    events = [event for batch in batches for event in batch]
    keys = [(event.tenant, event.type, tuple(sorted(event.dimensions.items()))) for event in events]
    series, subjects = sorted(set(keys)), sorted({event.subject for event in events})
    now_us = SystemClock().now_us()
    return events_pb2.EventsAccepted(
        batches=[
            events_pb2.AcceptedBatch(
                batch_id=(batch_ids[n] if batch_ids else new_id()).bytes,
                rows=len(batch),
                trace=trace,
                received_at_us=now_us,
                retracted=len(origins[n]) if origins else 0,
                origins=b"".join(origin.bytes for origin in origins[n]) if origins else b"",
            )
            for n, batch in enumerate(batches)
        ],
        series=[
            events_pb2.Series(
                tenant_id=tenant,
                event_type=kind,
                dimensions=[events_pb2.Dimension(name=name, value=value) for name, value in dimensions],
            )
            for tenant, kind, dimensions in series
        ],
        subjects=subjects,
        event_ids=b"".join(new_id().bytes for _ in events),
        series_index=np.array([series.index(key) for key in keys], "<u4").tobytes(),
        subject_index=np.array([subjects.index(event.subject) for event in events], "<u4").tobytes(),
        times_us=np.array([to_us(event.time) for event in events], "<i8").tobytes(),
        quantities=[
            _quantity(name, events, scale) for name in sorted({n for e in events for n in e.quantities})
        ],
    )


def _quantity(name: str, events: Sequence[Event], scale: int) -> events_pb2.QuantityValues:
    units = [int(Decimal(event.quantities.get(name, "0")).scaleb(scale)) for event in events]
    present = bytes(name in event.quantities for event in events)
    return events_pb2.QuantityValues(
        name=name,
        scale=scale,
        units=np.array(units, "<i8").tobytes(),
        present=b"" if all(present) else present,
    )


# --- expected usage

Groups = tuple[tuple[str, str], ...]
Expected = dict[tuple[datetime, Groups], tuple[Decimal, int]]


def expected_usage(
    meter: meters_pb2.Meter, events: Iterable[Event], zone: str, grain: Grain, *, by_group: bool
) -> Expected:
    """(value, events) by (start of the window, group)."""
    found: dict[tuple[datetime, Groups], list[Event]] = {}
    for event in events:
        if counts(meter, event):
            group = tuple((name, event.dimensions.get(name, "")) for name in sorted(meter.group_by))
            key = (start_of(event.time, zone, grain), group if by_group else ())
            found.setdefault(key, []).append(event)
    return {key: (value_of(meter, some), len(some)) for key, some in found.items()}


def counts(meter: meters_pb2.Meter, event: Event) -> bool:
    unique = meter.aggregation == types_pb2.AGGREGATION_UNIQUE
    member = event.dimensions.get(meter.unique_dimension) if meter.unique_dimension else event.subject
    return (
        event.type == meter.event_type
        and all(event.dimensions.get(name) == value for name, value in meter.filter.items())
        and (not meter.quantity or meter.quantity in event.quantities)
        and (not unique or bool(member))
    )


def value_of(meter: meters_pb2.Meter, events: Sequence[Event]) -> Decimal:
    quantities = [Decimal(event.quantities.get(meter.quantity, "0")) for event in events]
    match meter.aggregation:
        case types_pb2.AGGREGATION_SUM:
            return sum(quantities, Decimal(0))
        case types_pb2.AGGREGATION_MAX:
            return max(quantities)
        case types_pb2.AGGREGATION_UNIQUE:
            dimension = meter.unique_dimension
            return Decimal(len({e.dimensions[dimension] if dimension else e.subject for e in events}))
        case _:
            return Decimal(len(events))


def start_of(moment: datetime, zone: str, grain: Grain) -> datetime:
    """The start of a day or month, in zones whose clocks never skip or repeat midnight."""
    if grain == types_pb2.GRAIN_MINUTE:
        return moment.replace(second=0, microsecond=0)
    if grain == types_pb2.GRAIN_HOUR:
        return moment.replace(minute=0, second=0, microsecond=0)
    local = moment.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return (local if grain == types_pb2.GRAIN_DAY else local.replace(day=1)).astimezone(UTC)


# --- the service


@dataclass
class Node:
    """One replica of the service."""

    service: Aggregate
    meters: meters_pb2_grpc.MetersServiceAsyncStub
    usage: usage_pb2_grpc.UsageServiceAsyncStub
    reconciliation: reconciliation_pb2_grpc.ReconciliationServiceAsyncStub
    dead_letters: dead_letters_pb2_grpc.DeadLettersServiceAsyncStub

    async def create(self, *meters: meters_pb2.Meter) -> None:
        for meter in meters:
            await self.meters.CreateMeter(meters_pb2.CreateMeterRequest(meter=meter))

    async def windows(
        self, tenant: str, meter: str, grain: Grain, *, by_group: bool = False, page_size: int = 0
    ) -> list[usage_pb2.Window]:
        """All windows of a meter, from all pages."""
        request = usage_pb2.QueryUsageRequest(
            tenant_id=tenant,
            meter=meter,
            grain=grain,
            range=EVER,
            by_group=by_group,
            page_size=page_size,
        )
        found: list[usage_pb2.Window] = []
        while True:
            answer = await self.usage.QueryUsage(request)
            found += answer.windows
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def used(self, tenant: str, meter: str, grain: Grain, *, by_group: bool = False) -> Expected:
        """The usage that the node answers, in the form of `expected_usage`."""
        return {
            (window.start_time.ToDatetime(UTC), tuple(sorted(window.group.items()))): (
                Decimal(window.value),
                window.event_count,
            )
            for window in await self.windows(tenant, meter, grain, by_group=by_group)
        }


@asynccontextmanager
async def running_aggregate(
    database: TestDatabase, broker: NatsServer, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[Node]:
    """Runs one replica; months are published only on request of the test, unless `emit_seconds` is given."""
    chosen = {"emit_seconds": 3600.0, "linger_seconds": 0.0} | settings
    service = Aggregate(
        AggregateSettings.model_validate(settings_for("aggregate", database, broker) | chosen),
        clock or SystemClock(),
    )
    async with running(service) as channel:
        yield node_of(service, channel)


def node_of(service: Aggregate, channel: aio.Channel) -> Node:
    return Node(
        service,
        meters_pb2_grpc.MetersServiceStub(channel),
        usage_pb2_grpc.UsageServiceStub(channel),
        reconciliation_pb2_grpc.ReconciliationServiceStub(channel),
        dead_letters_pb2_grpc.DeadLettersServiceStub(channel),
    )


@dataclass
class Feed:
    """Publishes the messages of other services."""

    bus: Bus

    async def publish(
        self, fact: events_pb2.EventsAccepted | bytes, message_id: uuid.UUID | None = None
    ) -> uuid.UUID:
        """Publishes a message; returns its id."""
        message_id = message_id or new_id()
        payload = fact if isinstance(fact, bytes) else fact.SerializeToString()
        headers = {"Nats-Msg-Id": str(message_id)}
        await self.bus.jetstream().publish(events_accepted(), payload, headers=headers)
        return message_id

    async def forget_ids_soon(self) -> None:
        """Shrinks the broker's duplicate window. Must be called before the first message, since ids that the
        broker remembers already may keep their former lifetime."""
        jetstream = self.bus.jetstream()
        config = (await jetstream.stream_info(EVENTS_ACCEPTED.stream)).config
        await jetstream.update_stream(config, duplicate_window=0.1)

    async def publish_again(self, fact: events_pb2.EventsAccepted, message_id: uuid.UUID) -> None:
        """Publishes the same message with the same id after the duplicate window, like the RPC Replay."""
        jetstream = self.bus.jetstream()
        headers = {"Nats-Msg-Id": str(message_id)}

        async def is_stored() -> bool:
            answer = await jetstream.publish(events_accepted(), fact.SerializeToString(), headers=headers)
            return not answer.duplicate

        await eventually(is_stored)

    async def onboard(self, number: int, slug: str, zone: str = "UTC") -> None:
        fact = events_pb2.TenantChanged(
            tenant_id=number,
            slug=slug,
            version=1,
            time_zone=zone,
            currency="USD",
            plan="standard",
            external_customer_id=f"cus_{slug}",
            external_subscription_id=f"sub_{slug}",
            active=True,
            close_lead_seconds=600,
        )
        fact.changed_at.GetCurrentTime()
        headers = {"Nats-Msg-Id": str(new_id())}
        await self.bus.jetstream().publish(TENANTS_CHANGED.subject, fact.SerializeToString(), headers=headers)

    async def waiting(self) -> int:
        """The number of messages that aggregate has not acknowledged."""
        return await unanswered(self.bus.client, EVENTS_ACCEPTED.stream, CONSUMER)

    async def settled(self) -> None:
        """Waits until aggregate has acknowledged every message."""
        await eventually(self.waiting, seconds=30, until=lambda left: left == 0)

    async def forget_deliveries(self) -> None:
        """Has all messages redelivered to the next replica that starts."""
        await self.bus.client.jsm().delete_consumer(EVENTS_ACCEPTED.stream, CONSUMER)


def pending_rebuilds(database: TestDatabase) -> int:
    """The number of months that wait for a rebuild."""
    ((count,),) = database.read("aggregate", "SELECT count(*) FROM pending_rebuilds")
    return int(count)


async def rebuilt(database: TestDatabase) -> None:
    """Waits until no month needs a rebuild."""
    await eventually(lambda: pending_rebuilds(database), seconds=30, until=lambda left: left == 0)


def timestamp(moment: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(moment)
    return found


def time_range(start: datetime, end: datetime) -> types_pb2.TimeRange:
    return types_pb2.TimeRange(start_time=timestamp(start), end_time=timestamp(end))


EVER = time_range(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def meter(name: str, aggregation: types_pb2.Aggregation.ValueType, **more: Any) -> meters_pb2.Meter:
    given: dict[str, Any] = {"name": name, "event_type": "flight", "aggregation": aggregation} | more
    return meters_pb2.Meter(**given)


# One of each kind.
METERS = (
    meter("departures", types_pb2.AGGREGATION_COUNT, group_by=["origin"]),
    meter("miles", types_pb2.AGGREGATION_SUM, quantity="miles", group_by=["origin", "class"]),
    meter("longest", types_pb2.AGGREGATION_MAX, quantity="miles", group_by=["origin"]),
    meter("aircraft", types_pb2.AGGREGATION_UNIQUE, group_by=["origin"]),
    meter("origins", types_pb2.AGGREGATION_UNIQUE, unique_dimension="origin"),
    meter("jfk", types_pb2.AGGREGATION_COUNT, filter={"origin": "JFK"}),
)


def some_events(tenant: int, count: int, *, seed: int, start: datetime, span: timedelta) -> list[Event]:
    """Random events of a tenant in [start, start + span); some lack a dimension, a subject or a quantity."""
    random = np.random.default_rng(seed)
    events = []
    for _ in range(count):
        dimensions = {}
        if random.random() < 0.9:
            dimensions["origin"] = str(random.choice(["JFK", "EWR", "LGA"]))
        if random.random() < 0.5:
            dimensions["class"] = str(random.choice(["first", "second"]))
        quantities = {}
        if random.random() < 0.9:
            quantities["miles"] = str(Decimal(int(random.integers(-(10**6), 10**9))).scaleb(-3))
        subject = "" if random.random() < 0.1 else f"N{random.integers(0, 12)}"
        time = start + timedelta(microseconds=int(random.integers(0, span // timedelta(microseconds=1))))
        events.append(
            Event(
                tenant, time, "flight" if random.random() < 0.9 else "other", subject, dimensions, quantities
            )
        )
    return events
