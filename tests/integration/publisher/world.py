"""The publisher's surroundings: real Postgres and NATS, the Stripe double, and two scripted services."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, LiteralString

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from grpc import aio
from meterline.bus.connection import Bus
from meterline.clock import to_datetime
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2
from meterline_protos.ingest.v1.events_pb2 import StoredEvent
from meterline_protos.operations.v1 import dead_letters_pb2_grpc
from meterline_protos.publisher.v1 import (
    invoices_pb2,
    invoices_pb2_grpc,
    prices_pb2,
    prices_pb2_grpc,
    publications_pb2,
    publications_pb2_grpc,
)
from stripe.billing import Meter

from tests.contract.stripe_double.lab import Lab
from tests.integration.publisher.catalogue import PER_UNIT, Priced, stripe_terms
from tests.support.clocks import ShiftedClock
from tests.support.databases import TestDatabase
from tests.support.fake_mesh import Event, FakeMesh, month_start, next_month, timestamp
from tests.support.polling import eventually

START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)

NO_FIELDS: Final[Mapping[str, Any]] = {}
OPEN, PUBLISHED, FINALIZED, DISPUTED = 1, 2, 3, 4
SENT, REJECTED = invoices_pb2.PUBLICATION_STATE_SENT, invoices_pb2.PUBLICATION_STATE_REJECTED


class Api:
    """The calls of one running publisher."""

    def __init__(self, channel: aio.Channel, mesh: FakeMesh) -> None:
        self._mesh = mesh
        self.prices = prices_pb2_grpc.PricesServiceStub(channel)
        self.invoices = invoices_pb2_grpc.InvoicesServiceStub(channel)
        self.publications = publications_pb2_grpc.PublicationsServiceStub(channel)
        self.dead_letters = dead_letters_pb2_grpc.DeadLettersServiceStub(channel)

    async def put(self, plan: str, priced: Priced, event_name: str = "", **more: Any) -> prices_pb2.Price:
        """Puts a price, and creates its meter if necessary. `more` are fields of the message; the default is
        version 1, effective from 2020."""
        if priced.meter not in self._mesh.meters and (event_name or priced.body["model"] != "flat"):
            self._mesh.add_meter(priced.meter)
        body = Struct()
        body.update(priced.body)
        fields: dict[str, Any] = {
            "version": 1,
            "effective_from": timestamp(datetime(2020, 1, 1, tzinfo=UTC)),
            "billing_scale": priced.scale,
        }
        message = prices_pb2.Price(
            plan=plan,
            meter=priced.meter,
            body=body,
            billing_event_name=event_name,
            **(fields | more),
        )
        return (await self.prices.PutPrice(prices_pb2.PutPriceRequest(price=message))).price

    async def publish(self, tenant: str, at: datetime = NOW) -> publications_pb2.PublishUsageResponse:
        request = publications_pb2.PublishUsageRequest(tenant_id=tenant, at=timestamp(at))
        return await self.publications.PublishUsage(request)

    async def preview(self, tenant: str, at: datetime = NOW) -> invoices_pb2.Invoice:
        return (await self.preview_with(tenant, {}, at)).invoice

    async def preview_with(
        self, tenant: str, deltas: Mapping[str, str], at: datetime = NOW
    ) -> invoices_pb2.PreviewInvoiceResponse:
        """Previews with usage changed by `deltas`, which are by meter."""
        changes = [invoices_pb2.UsageChange(meter=meter, delta=delta) for meter, delta in deltas.items()]
        request = invoices_pb2.PreviewInvoiceRequest(tenant_id=tenant, at=timestamp(at), changes=changes)
        return await self.invoices.PreviewInvoice(request)

    async def reconcile(self, tenant: str, at: datetime = NOW) -> publications_pb2.ReconcilePeriodResponse:
        request = publications_pb2.ReconcilePeriodRequest(tenant_id=tenant, at=timestamp(at))
        return await self.publications.ReconcilePeriod(request)

    async def invoice_list(self, tenant: str) -> Sequence[invoices_pb2.Invoice]:
        request = invoices_pb2.ListInvoicesRequest(tenant_id=tenant)
        return (await self.invoices.ListInvoices(request)).invoices


@dataclass(frozen=True)
class Billed:
    """A tenant's objects at the provider. `events` are the event names by meter."""

    slug: str
    number: int
    customer: str
    subscription: str
    test_clock: str
    events: dict[str, str]


@dataclass
class World:
    """The publisher's database, broker, fake services and provider, with shorthands for tests."""

    database: TestDatabase
    bus: Bus
    mesh: FakeMesh
    lab: Lab
    clock: ShiftedClock
    aggregate: str
    broker: Any
    api: Api | None = None

    async def tenant(
        self,
        slug: str = "acme",
        prices: Iterable[Priced] = (Priced("calls", PER_UNIT),),
        *,
        zone: str = "UTC",
        number: int = 1,
        lead_seconds: int = 3600,
        start: datetime = START,
        now: datetime = NOW,
        currency: str = "USD",
        effect: Mapping[str, Any] = NO_FIELDS,
        billed_from: str = "",
    ) -> Billed:
        """Creates a tenant with its own plan and a customer at the provider; its month began at `start`.

        `effect` are fields of its prices, over those of `Api.put`.
        """
        assert self.api is not None
        items = list(prices)
        self.mesh.add_tenant(slug, number, zone)
        clock = self.lab.clock(int(start.timestamp()))
        customer = self.lab.customer(clock)
        stripe_prices, events = [], {}
        for priced in items:
            if priced.meter not in self.mesh.meters:
                self.mesh.add_meter(priced.meter)
            meter = self.lab.meter()
            stripe_prices.append(self.lab.price(meter, **stripe_terms(priced)))
            events[priced.meter] = meter.event_name
            await self.api.put(f"plan-{slug}", priced, meter.event_name, **effect)
        ends, end = [], start
        for _ in range(4):
            end = next_month(end, self.mesh.tenants[slug].zone)
            ends.append(str(int(end.timestamp())))
        metadata = {"meterline_period_boundaries": ",".join(ends)}
        subscription = self.lab.subscribe(customer, *stripe_prices, metadata=metadata).id
        if now > start:
            self.lab.advance(clock, int(now.timestamp()))
        await self.announce(
            slug,
            number,
            customer,
            subscription,
            zone=zone,
            lead_seconds=lead_seconds,
            currency=currency,
            billed_from=billed_from,
        )
        return Billed(slug, number, customer, subscription, clock, events)

    async def announce(
        self,
        slug: str,
        number: int,
        customer: str = "",
        subscription: str = "",
        *,
        zone: str = "UTC",
        lead_seconds: int = 3600,
        currency: str = "USD",
        version: int = 1,
        billed_from: str = "",
        plan: str | None = None,
        changed_at: datetime | None = None,
        active: bool = True,
    ) -> None:
        """Announces a tenant to the publisher only. Its default plan is `plan-<slug>`, which applies from
        1970 unless `changed_at` is given."""
        await self.deliver(
            "tenants.changed",
            events_pb2.TenantChanged(
                tenant_id=number,
                slug=slug,
                version=version,
                time_zone=zone,
                currency=currency,
                plan=f"plan-{slug}" if plan is None else plan,
                changed_at=timestamp(changed_at) if changed_at else None,
                external_customer_id=customer,
                external_subscription_id=subscription,
                active=active,
                close_lead_seconds=lead_seconds,
                billed_from=billed_from,
            ),
        )
        await eventually(
            lambda: self.rows(
                "SELECT FROM tenant_plans WHERE tenant_id = %s AND version = %s", number, version
            )
        )

    async def capture(
        self,
        slug: str,
        *events: Event,
        trace: types_pb2.TraceContext | None = None,
        retracted: Iterable[StoredEvent] = (),
    ) -> events_pb2.UsageWindowsChanged:
        """Captures a batch that adds `events` and retracts `retracted`; waits until it is applied."""
        fact = self.mesh.capture(slug, events, trace, retracted)
        await self.deliver("usage.window", fact)
        for window in fact.windows:
            start = window.start_time.ToDatetime(tzinfo=UTC)
            known = partial(
                self.rows,
                "SELECT FROM usage WHERE tenant_id = %s AND meter = %s AND period_start = %s"
                " AND revision >= %s",
                window.tenant_id,
                window.meter,
                start,
                window.revision,
            )
            await eventually(known)
        return fact

    async def use(self, slug: str, value: str, at: datetime = NOW) -> None:
        """Captures one event with `value` as its amount."""
        await self.capture(slug, Event(at, value=value))

    async def deliver(self, subject: str, fact: Message) -> None:
        """Publishes a message in place of the service that owns its subject."""
        headers = {"Nats-Msg-Id": str(uuid.uuid4())}
        await self.bus.jetstream().publish(subject, fact.SerializeToString(), headers=headers)

    def now(self) -> datetime:
        """The publisher's time."""
        return to_datetime(self.clock.now_us())

    def stripe_meter(self, billed: Billed, meter: str = "calls") -> Meter:
        """The provider's meter for our meter."""
        found = self.lab.api.v1.billing.meters.list({"limit": 100}).auto_paging_iter()
        return next(known for known in found if known.event_name == billed.events[meter])

    def rows(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Runs a query on the publisher's tables, for all tenants."""
        return self.database.read("publisher", query, *parameters)

    def at_provider(self, billed: Billed, meter: str = "calls") -> int:
        """The customer's accepted usage at the provider over all time, scaled."""
        return sum(
            event["value"]
            for event in self.lab.control.meter_events(billed.customer)
            if event["event_name"] == billed.events[meter] and event["status"] == "accepted"
        )

    def sends(self, billed: Billed) -> int:
        """The number of the customer's events at the provider."""
        return len(self.lab.control.meter_events(billed.customer))

    def end_month(self, billed: Billed, *, final: bool = True) -> datetime:
        """Moves the provider's clock past the month's end, to the draft or to the final invoice."""
        zone = self.mesh.tenants[billed.slug].zone
        end = next_month(month_start(NOW, zone), zone)
        seconds = int(end.timestamp()) + (3_600 if final else 0)
        self.lab.advance(billed.test_clock, seconds)
        return end
