"""Sending: concurrency, order, and the state after a stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import grpc
import pytest
from meterline_publisher.ledger import store as ledger
from meterline_publisher.ledger.rules.publications import Publication
from meterline_publisher.main import Publisher
from meterline_publisher.providers.port import Delivery, UsageEvent
from psycopg import AsyncConnection

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher, settings
from tests.integration.publisher.world import NOW, Api, World
from tests.support.credentials import refused
from tests.support.fake_billing import FakeBilling, busy, registry
from tests.support.polling import eventually
from tests.support.services import running

pytestmark = pytest.mark.req("S6", "S10", "T2.4")


# No lease expires while the gate is closed, and no call waits for it.
PATIENT = {"publish_wait_seconds": 0.0, "stripe_timeout_seconds": 60.0, "send_concurrency": 10}


@dataclass
class GatedBilling(FakeBilling):
    """Holds every call until the gate opens, and counts the calls in progress."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    in_progress: Counter[tuple[str, str]] = field(default_factory=Counter)
    max_in_progress: int = 0
    max_in_progress_per_meter: int = 0
    order: list[tuple[str, int]] = field(default_factory=list)

    async def send_usage(self, event: UsageEvent) -> Delivery:
        lane = (event.customer, event.event_name)
        self.in_progress[lane] += 1
        self.max_in_progress = max(self.max_in_progress, self.in_progress.total())
        self.max_in_progress_per_meter = max(self.max_in_progress_per_meter, self.in_progress[lane])
        await self.gate.wait()
        try:
            self.order.append((event.event_name, int(event.value)))
            return await super().send_usage(event)
        finally:
            self.in_progress[lane] -= 1


async def tenant_with(world: World, api: Api, billing: FakeBilling, meters: int) -> None:
    """Adds `acme` with `meters` priced meters, which exist at the fake provider."""
    world.mesh.add_tenant("acme", 1, "UTC")
    for name in (f"m{number}" for number in range(meters)):
        world.mesh.add_meter(name)
        billing.meters.add(f"event-{name}")
        await api.put("plan-acme", Priced(name, PER_UNIT), f"event-{name}")
    await world.announce("acme", 1, "cus_acme")


async def test_concurrent_provider_calls_are_bounded(world: World, start: StartPublisher) -> None:
    billing = GatedBilling(lambda: NOW)
    api = await start(billing, **PATIENT)
    await start(billing, **PATIENT)
    await tenant_with(world, api, billing, 24)
    await world.use("acme", "1")
    await api.publish("acme")
    await eventually(lambda: billing.in_progress.total() == 20)  # ten for each replica
    billing.gate.set()
    await eventually(lambda: world.rows("SELECT FROM invoices WHERE state = 'published'"))
    assert billing.max_in_progress == 20
    assert len(billing.kept) == 24


async def test_calls_of_a_meter_are_sequential_and_in_order(world: World, start: StartPublisher) -> None:
    billing = GatedBilling(lambda: NOW)
    replicas = [await start(billing, **PATIENT), await start(billing, **PATIENT)]
    await tenant_with(world, replicas[0], billing, 3)
    for value in range(1, 7):
        await world.use("acme", str(value))
        await replicas[value % 2].publish("acme")
    await eventually(lambda: billing.in_progress.total() == 3)
    billing.gate.set()
    await eventually(lambda: world.rows("SELECT FROM invoices WHERE state = 'published'"))
    assert billing.max_in_progress_per_meter == 1
    for name in billing.meters:
        assert [value for event, value in billing.order if event == name] == [1, 2, 3, 4, 5, 6]


async def test_publication_is_sent_only_by_its_own_provider(world: World, start: StartPublisher) -> None:
    billing, other = FakeBilling(lambda: NOW), FakeBilling(lambda: NOW, name="other")
    other.faults = [busy() for _ in range(10_000)]
    service = Publisher(settings(world, publish_wait_seconds=0.0), world.clock, registry(other))
    async with running(service) as channel:
        left = Api(channel, world.mesh)
        await tenant_with(world, left, other, 3)
        await world.use("acme", "4")
        await left.publish("acme")
        await eventually(lambda: other.calls > 10)
    waiting = "SELECT count(*) FROM publications WHERE provider = 'other' AND state = 'pending'"
    await eventually(lambda: world.rows(waiting) == [(3,)])
    # The rows of `other` are due, while only the first provider's sender runs.
    billing.meters = other.meters
    api = await start(billing, publish_wait_seconds=0.0)
    world.mesh.add_tenant("globex", 2, "UTC")
    await api.put("plan-globex", Priced("m0", PER_UNIT), "event-m0")
    await world.announce("globex", 2, "cus_globex")
    await world.use("globex", "5")
    await api.publish("globex")
    await eventually(lambda: billing.kept)
    assert [(kept.event.customer, kept.event.value) for kept in billing.kept] == [("cus_globex", Decimal(5))]
    assert billing.calls == 1
    assert world.rows(waiting) == [(3,)]
    assert (await refused(api.publish("acme")))[0] is grpc.StatusCode.FAILED_PRECONDITION
    assert world.rows("SELECT reason FROM billing_gaps WHERE tenant_id = 1") == [("customer_changed",)]


async def test_stop_waits_for_calls_in_progress(world: World) -> None:
    billing = GatedBilling(lambda: NOW)
    service = Publisher(settings(world, publish_wait_seconds=0.0), world.clock, registry(billing))
    async with running(service) as channel:
        api = Api(channel, world.mesh)
        await tenant_with(world, api, billing, 1)
        await world.use("acme", "5")
        await api.publish("acme")
        await eventually(lambda: billing.in_progress.total() == 1)
        asyncio.get_running_loop().call_later(0.2, billing.gate.set)
    assert [kept.event.value for kept in billing.kept] == [5]
    assert len(world.rows("SELECT FROM publications WHERE state = 'sent'")) == 1


async def test_stop_between_lease_and_call_leaves_no_row_leased(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing = FakeBilling(lambda: NOW)
    service = Publisher(settings(world, publish_wait_seconds=0.0), world.clock, registry(billing))
    committed, going_on, commit = asyncio.Event(), asyncio.Event(), AsyncConnection.commit

    async def held(connection: AsyncConnection[Any]) -> None:
        """Commits, and answers the sender's first commit only once the service is stopping."""
        await commit(connection)
        if connection in claiming and not committed.is_set():
            committed.set()
            await going_on.wait()

    claim, claiming = ledger.claim, set[AsyncConnection[Any]]()

    async def watched(connection: AsyncConnection[Any], *claimed: Any) -> list[Publication]:
        rows = await claim(connection, *claimed)
        if rows:
            claiming.add(connection)
        return rows

    monkeypatch.setattr(AsyncConnection, "commit", held)
    monkeypatch.setattr(ledger, "claim", watched)
    async with running(service) as channel:
        api = Api(channel, world.mesh)
        await tenant_with(world, api, billing, 1)
        await world.use("acme", "5")
        await api.publish("acme")
        await committed.wait()
        asyncio.get_running_loop().call_later(0.2, going_on.set)
    assert [kept.event.value for kept in billing.kept] == [5]
    assert len(world.rows("SELECT FROM publications WHERE state = 'sent'")) == 1


async def test_pending_usage_is_sent_after_provider_recovers(world: World, start: StartPublisher) -> None:
    billing = FakeBilling(lambda: NOW)
    billing.faults = [busy() for _ in range(30)]
    api = await start(billing, publish_wait_seconds=0.0)
    await tenant_with(world, api, billing, 3)
    await world.use("acme", "4")
    await api.publish("acme")
    await eventually(lambda: len(billing.kept) == 3)
    assert billing.calls == 33
    await eventually(lambda: world.rows("SELECT FROM invoices WHERE state = 'published'"))
    assert world.rows("SELECT sum(attempts)::int FROM publications") == [(33,)]
