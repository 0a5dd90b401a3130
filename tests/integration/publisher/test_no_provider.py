"""Without a billing provider usage is counted, rated and explained; with one later, it is invoiced once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from meterline.telemetry import metrics
from meterline_protos.publisher.v1 import invoices_pb2
from meterline_publisher.closing.job import Closing
from meterline_publisher.main import Publisher

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import settings
from tests.integration.publisher.test_billing_gaps import END, counted, gaps_of, listed
from tests.integration.publisher.test_deliveries import refusal
from tests.integration.publisher.world import NOW, PUBLISHED, Api, Billed, World
from tests.support.fake_mesh import Event
from tests.support.polling import eventually
from tests.support.services import running

pytestmark = pytest.mark.req("S4", "S9")

LATE = END - timedelta(minutes=30)
Start = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture
def publisher(surroundings: World) -> Start:
    """Runs a publisher, without a key of a provider unless `keyed`; it stops with the block."""

    @asynccontextmanager
    async def run(*, keyed: bool = False, **more: object) -> AsyncIterator[Api]:
        given = settings(surroundings, **(more if keyed else more | {"stripe_api_key": None}))
        async with running(Publisher(given, surroundings.clock)) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            surroundings.api = Api(channel, surroundings.mesh)
            yield surroundings.api

    return run


async def refused(api: Api, world: World) -> None:
    """Whatever needs a provider says that there is none, and how to set one."""
    rows = world.rows("SELECT count(*) FROM publications")
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "NO_BILLING_PROVIDER")
    for ask in (api.publish, api.reconcile):
        assert await refusal(ask("acme")) == expected
        with pytest.raises(aio.AioRpcError, match="METERLINE_STRIPE_API_KEY"):
            await ask("acme")
    assert world.rows("SELECT count(*) FROM publications") == rows


async def used(world: World) -> Billed:
    """A tenant of the provider that used 30, in the last hour of the month."""
    world.clock.advance(LATE - world.now())
    acme = await world.tenant(now=LATE)
    await world.capture("acme", Event(NOW, value="10"), Event(NOW, value="20"))
    return acme


HELD = [("acme", "", "NO_BILLING_PROVIDER", "")]


@pytest.mark.req("S6")
async def test_usage_is_rated_and_explained_without_a_provider_and_invoiced_once_with_one(
    surroundings: World, publisher: Start
) -> None:
    world = surroundings
    async with publisher(close_check_seconds=0.05, settle_seconds=0.05) as api:
        acme = await used(world)
        assert (await api.preview("acme")).total == "0.30"
        (event, _) = world.mesh.tenants["acme"].events
        explained = await api.invoices.ExplainEvent(
            invoices_pb2.ExplainEventRequest(tenant_id="acme", event_id=event.event_id)
        )
        assert [(use.meter, use.invoice_id) for use in explained.uses] == [("calls", "")]
        await refused(api, world)
        # What is due is held, which is a state to be seen and no alert.
        await eventually(lambda: gaps_of(api), until=lambda found: found == HELD)
        await eventually(lambda: counted("no_billing_provider") == 1)
        assert "METERLINE_STRIPE_API_KEY" in (await listed(api))[0].detail
        assert await api.invoice_list("acme") == []
        assert world.sends(acme) == 0
    async with publisher(keyed=True, close_check_seconds=0.05) as api:
        await eventually(
            lambda: api.invoice_list("acme"),
            until=lambda found: [(i.total, i.state) for i in found] == [("0.30", PUBLISHED)],
        )
        assert await gaps_of(api) == []
        assert world.at_provider(acme) == 30
        await api.publish("acme")
        assert world.at_provider(acme) == 30
        assert world.sends(acme) == 1


async def test_periods_that_were_held_for_long_are_sent_by_the_next_close(
    surroundings: World, publisher: Start
) -> None:
    """One that was due without a provider, and one of which usage came when its time for closing was over."""
    world = surroundings
    async with publisher(close_check_seconds=0.05) as api:
        acme = await used(world)
        await eventually(lambda: gaps_of(api), until=lambda found: found == HELD)
        world.clock.advance(timedelta(days=20))
        february = datetime(2026, 2, 27, tzinfo=UTC)
        await world.capture("acme", Event(february, value="7"))
        assert await gaps_of(api) == [("acme", "calls", "NO_BILLING_PROVIDER", "7"), *HELD]
    async with publisher(keyed=True, close_check_seconds=0.05) as api:
        await eventually(lambda: gaps_of(api), until=lambda found: found == [])
        assert [invoice.total for invoice in await api.invoice_list("acme")] == ["0.30", "0.07"]
        await eventually(lambda: world.at_provider(acme) == 37)
        assert world.sends(acme) == 2


async def test_a_close_that_forgets_what_was_held_is_caught(
    surroundings: World, publisher: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: only what is due by the clock is closed."""
    world = surroundings
    async with publisher(close_check_seconds=0.05) as api:
        await used(world)
        await eventually(lambda: gaps_of(api), until=lambda found: found == HELD)
        world.clock.advance(timedelta(days=20))

    async def nothing(*_: object) -> None: ...

    monkeypatch.setattr(Closing, "_close_held", nothing)
    async with publisher(keyed=True, close_check_seconds=0.05) as api:
        # A tenant of a later month is closed, so there were looks.
        await world.tenant("later", number=2, start=datetime(2026, 4, 1, tzinfo=UTC), now=world.now())
        world.clock.advance(datetime(2026, 4, 30, 23, 30, tzinfo=UTC) - world.now())
        await world.use("later", "1", datetime(2026, 4, 20, tzinfo=UTC))
        await eventually(lambda: api.invoice_list("later"))
        assert await gaps_of(api) == HELD


async def test_what_was_calculated_stays_and_waits_when_the_key_is_taken_away(
    surroundings: World, publisher: Start
) -> None:
    world = surroundings
    async with publisher(keyed=True) as api:
        acme = await used(world)
        published = (await api.publish("acme")).invoice
        await world.use("acme", "5")
    async with publisher(close_check_seconds=0.05, settle_seconds=0.05) as api:
        await eventually(lambda: gaps_of(api), until=lambda found: found == HELD)
        (invoice,) = await api.invoice_list("acme")
        assert invoice == published
        line = invoices_pb2.ExplainInvoiceLineRequest(tenant_id="acme", line_id=invoice.lines[0].line_id)
        assert len((await api.invoices.ExplainInvoiceLine(line)).batches) == 2
        assert (await api.preview("acme")).total == "0.35"
        await refused(api, world)
        # The provider's invoice becomes final while nobody asks it.
        world.end_month(acme)
        assert (await api.invoice_list("acme"))[0].state == PUBLISHED
    async with publisher(keyed=True, close_check_seconds=0.05) as api:
        await eventually(
            lambda: gaps_of(api), until=lambda found: found == [("acme", "calls", "LATE_USAGE", "5")]
        )
        assert world.at_provider(acme) == 30


async def test_whoever_cannot_be_billed_either_way_is_no_alert_without_a_provider(
    surroundings: World, publisher: Start
) -> None:
    """No plan, no customer, and no usage: what is missing is told once there is a provider."""
    world = surroundings
    world.clock.advance(LATE - world.now())
    async with publisher(close_check_seconds=0.05) as api:
        await api.put("good", Priced("calls", PER_UNIT))
        for number, slug, plan, customer in (
            (1, "customerless", "good", ""),
            (2, "planless", "", "cus_1"),
            (3, "unused", "good", ""),
        ):
            world.mesh.add_tenant(slug, number, "UTC")
            await world.announce(slug, number, customer, plan=plan)
        for slug in ("customerless", "planless"):
            await world.use(slug, "1")
        held = [(slug, "", "NO_BILLING_PROVIDER", "") for slug in ("customerless", "planless")]
        await eventually(lambda: gaps_of(api), until=lambda found: found == held)
        await eventually(lambda: counted("no_billing_provider") == 2)
        (metric,) = metrics.BILLING_GAPS.collect()
        assert sum(sample.value for sample in metric.samples) == 2
    async with publisher(keyed=True, close_check_seconds=0.05) as api:
        told = [("customerless", "", "NO_CUSTOMER", ""), ("planless", "", "NO_PLAN", "")]
        await eventually(lambda: gaps_of(api), until=lambda found: found == told)
