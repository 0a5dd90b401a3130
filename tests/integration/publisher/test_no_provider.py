"""Without a provider usage is rated and explained; once a provider is configured, it is invoiced once."""

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
def publisher(world: World) -> Start:
    """Runs a publisher until the block ends; it has a provider's API key only with `keyed`."""

    @asynccontextmanager
    async def run(*, keyed: bool = False, **more: object) -> AsyncIterator[Api]:
        given = settings(world, **(more if keyed else more | {"stripe_api_key": None}))
        async with running(Publisher(given, world.clock)) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            world.api = Api(channel, world.mesh)
            yield world.api

    return run


async def refused(api: Api, world: World) -> None:
    """Asserts that calls which need a provider fail with NO_BILLING_PROVIDER and name the setting."""
    rows = world.rows("SELECT count(*) FROM publications")
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "NO_BILLING_PROVIDER")
    for ask in (api.publish, api.reconcile):
        assert await refusal(ask("acme")) == expected
        with pytest.raises(aio.AioRpcError, match="METERLINE_STRIPE_API_KEY"):
            await ask("acme")
    assert world.rows("SELECT count(*) FROM publications") == rows


async def used(world: World) -> Billed:
    """Adds a tenant with a usage of 30, and moves the time to the last half hour of the month."""
    world.clock.advance(LATE - world.now())
    acme = await world.tenant(now=LATE)
    await world.capture("acme", Event(NOW, value="10"), Event(NOW, value="20"))
    return acme


HELD = [("acme", "", "NO_BILLING_PROVIDER", "")]


@pytest.mark.req("S6")
async def test_usage_held_without_provider_is_invoiced_once_provider_is_configured(
    world: World, publisher: Start
) -> None:
    async with publisher(close_check_seconds=0.05, settle_seconds=0.05) as api:
        acme = await used(world)
        assert (await api.preview("acme")).total == "0.30"
        (event, _) = world.mesh.tenants["acme"].events
        explained = await api.invoices.ExplainEvent(
            invoices_pb2.ExplainEventRequest(tenant_id="acme", event_id=event.event_id)
        )
        assert [(use.meter, use.invoice_id) for use in explained.uses] == [("calls", "")]
        await refused(api, world)
        # Due periods are held, which is visible as a gap but raises no alert.
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


async def test_long_held_periods_are_sent_by_next_close(world: World, publisher: Start) -> None:
    """One period was due without a provider; the other got usage after its closing time."""
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


async def test_close_that_skips_held_periods_is_detected(
    world: World, publisher: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: closing considers only periods that are due now, and no held periods."""
    async with publisher(close_check_seconds=0.05) as api:
        await used(world)
        await eventually(lambda: gaps_of(api), until=lambda found: found == HELD)
        world.clock.advance(timedelta(days=20))

    async def nothing(*_: object) -> None: ...

    monkeypatch.setattr(Closing, "_close_held", nothing)
    async with publisher(keyed=True, close_check_seconds=0.05) as api:
        # A tenant is closed in a later month, which proves that closing has run.
        await world.tenant("later", number=2, start=datetime(2026, 4, 1, tzinfo=UTC), now=world.now())
        world.clock.advance(datetime(2026, 4, 30, 23, 30, tzinfo=UTC) - world.now())
        await world.use("later", "1", datetime(2026, 4, 20, tzinfo=UTC))
        await eventually(lambda: api.invoice_list("later"))
        assert await gaps_of(api) == HELD


async def test_calculations_remain_and_usage_is_held_after_key_removal(
    world: World, publisher: Start
) -> None:
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
        # The provider's invoice becomes final while no publisher has a key to query it.
        world.end_month(acme)
        assert (await api.invoice_list("acme"))[0].state == PUBLISHED
    async with publisher(keyed=True, close_check_seconds=0.05) as api:
        await eventually(
            lambda: gaps_of(api), until=lambda found: found == [("acme", "calls", "LATE_USAGE", "5")]
        )
        assert world.at_provider(acme) == 30


async def test_unbillable_tenants_raise_no_alert_without_provider(world: World, publisher: Start) -> None:
    """Tenants without plan, customer or usage: the missing parts are reported once a provider is set."""
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
        missing = [("customerless", "", "NO_CUSTOMER", ""), ("planless", "", "NO_PLAN", "")]
        await eventually(lambda: gaps_of(api), until=lambda found: found == missing)
