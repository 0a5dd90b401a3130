"""Random reports, imports and corrections of events, with a record of the remaining events."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from meterline.bus.subjects import EVENTS_ACCEPTED
from meterline.clock import to_us
from meterline.ids import new_id
from meterline_protos.events.v1 import events_pb2 as facts_pb2
from meterline_protos.ingest.v1 import corrections_pb2 as pb
from meterline_protos.ingest.v1 import event_types_pb2
from nats.js import JetStreamContext

from tests.support.aggregate import Event
from tests.support.capture import RunningIngest, Sample, rows
from tests.support.corrections_calls import Corrections


async def put_types(ingest: RunningIngest) -> None:
    """Puts the event types of `tests.support.aggregate`."""
    miles = event_types_pb2.QuantityDefinition(name="miles", scale=3, signed=True)
    dimensions = [event_types_pb2.DimensionDefinition(name=name) for name in ("origin", "class")]
    for name in ("flight", "other"):
        definition = event_types_pb2.EventType(name=name, quantities=[miles], dimensions=dimensions)
        await ingest.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=definition))


def sample(event: Event) -> Sample:
    return Sample(event.type, event.subject, to_us(event.time), event.dimensions, event.quantities)


def changes(before: Event, after: Event) -> pb.EventChanges:
    """The complete changes that turn one event into the other."""
    found = pb.EventChanges(
        subject=after.subject,
        dimensions=after.dimensions,
        quantities=after.quantities,
        removed=[
            *(f"dimensions.{name}" for name in before.dimensions.keys() - after.dimensions.keys()),
            *(f"quantities.{name}" for name in before.quantities.keys() - after.quantities.keys()),
        ],
    )
    found.time.FromDatetime(after.time)
    return found


def amended(event: Event, order: random.Random, most_minutes: int = 3_000) -> Event:
    """The event with some fields changed."""
    earlier = timedelta(minutes=order.randint(0, most_minutes))
    values = {"miles": str(Decimal(order.randint(-1000, 10**6)).scaleb(-3))}
    choices = [
        replace(event, time=event.time - earlier),
        replace(event, quantities=values),
        replace(event, quantities={}),
        replace(event, subject=f"N{order.randint(0, 12)}"),
        replace(event, dimensions={"origin": order.choice(["JFK", "EWR"])}),
        replace(event, time=event.time - earlier, quantities=values, dimensions={}),
    ]
    return order.choice(choices)


@dataclass
class Journal:
    """Reports and corrects events of one tenant, and records the remaining ones.

    calls: the number of calls that published a message
    """

    ingest: RunningIngest
    tenant: int
    slug: str
    left: dict[str, Event] = field(default_factory=dict)
    calls: int = 0

    def __post_init__(self) -> None:
        self.corrections = Corrections(self.ingest, self.slug)

    async def report(self, events: Sequence[Event]) -> None:
        samples = [sample(event) for event in events]
        answer = await self.ingest.report(rows(*samples, tenant_id=self.slug))
        assert answer.accepted == len(samples), answer
        self._added(samples, events)

    async def import_events(self, events: Sequence[Event]) -> None:
        samples = [sample(event) for event in events]
        answer = await self.corrections.import_events(str(new_id()), *samples)
        assert answer.accepted == len(samples), answer
        self._added(samples, events)

    async def amend(self, event_id: str, after: Event) -> None:
        answer = await self.corrections.amend(event_id, changes(self.left[event_id], after))
        self.calls += answer.HasField("correction")
        self.left[event_id] = after

    async def retract(self, *event_ids: str) -> None:
        """Retracts one event by a single call, several by a bulk call."""
        if len(event_ids) == 1:
            await self.corrections.retract(event_ids[0])
        else:
            ids = pb.EventIds(event_ids=event_ids)
            answer = await self.corrections.correct(ids=ids, retract=pb.Retraction())
            assert answer.corrected == len(event_ids), answer
        self.calls += 1
        for event_id in event_ids:
            del self.left[event_id]

    async def at_random(self, order: random.Random, events: Sequence[Event]) -> None:
        """Reports and imports `events`, and corrects random events in between."""
        waiting = list(events)
        while waiting:
            size = order.randint(1, 10)
            send = order.choice([self.report, self.import_events])
            await send(waiting[:size])
            waiting = waiting[size:]
            for _ in range(order.randint(0, 3)):
                await self._correct_one(order)

    async def _correct_one(self, order: random.Random) -> None:
        if not self.left:
            return
        chosen = order.sample(sorted(self.left), min(len(self.left), order.randint(1, 3)))
        if order.random() < 0.5:
            await self.retract(*chosen)
        else:
            await self.amend(chosen[0], amended(self.left[chosen[0]], order))

    def _added(self, samples: Sequence[Sample], events: Sequence[Event]) -> None:
        self.calls += 1
        self.left |= {each.id: event for each, event in zip(samples, events, strict=True)}


class PublishedMessages:
    """Reads the messages that ingest publishes."""

    def __init__(self, subscription: JetStreamContext.PullSubscription) -> None:
        self._subscription = subscription
        self._facts: list[facts_pb2.EventsAccepted] = []

    @classmethod
    async def of(cls, ingest: RunningIngest) -> PublishedMessages:
        return cls(
            await ingest.bus.jetstream().pull_subscribe(
                EVENTS_ACCEPTED.subject, stream=EVENTS_ACCEPTED.stream
            )
        )

    async def facts(self, tenant: int, count: int) -> list[facts_pb2.EventsAccepted]:
        """The next `count` messages of a tenant."""
        while True:
            mine = [fact for fact in self._facts if fact.series[0].tenant_id == tenant]
            if len(mine) >= count:
                self._facts = [fact for fact in self._facts if fact.series[0].tenant_id != tenant]
                assert len(mine) == count, "ingest published more messages than calls"
                return mine
            for message in await self._subscription.fetch(1, timeout=10):
                self._facts.append(facts_pb2.EventsAccepted.FromString(message.data))


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)
