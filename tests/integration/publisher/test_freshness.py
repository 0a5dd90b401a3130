"""Amounts are never computed from stale usage: the publisher asks aggregate for the current usage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from datetime import UTC
from decimal import Decimal

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from meterline.calendar import Period
from meterline.errors import AbortedError
from meterline.tenants import Tenant
from meterline_publisher.prices.rules.rule_sets import Rule
from meterline_publisher.usage import store as usage_store
from meterline_publisher.usage.refreshing import Refreshing

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.world import FINALIZED, NOW, PUBLISHED, Api, World
from tests.support.fake_mesh import Event
from tests.support.polling import eventually

pytestmark = pytest.mark.req("T3.1", "X2")

CALL = [Event(NOW, value="5")]


def retry_after(error: aio.AioRpcError) -> float:
    """The seconds of the error's RetryInfo. Fails when it has none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        found = error_details_pb2.RetryInfo()
        if detail.Unpack(found):
            return float(found.retry_delay.ToTimedelta().total_seconds())
    raise AssertionError("no RetryInfo")


async def steady_traffic(world: World, api: Api) -> list[str]:
    """Publishes five times while usage grows and no announcement arrives; returns the totals."""
    totals = []
    for _ in range(5):
        world.mesh.capture("acme", CALL)
        totals.append((await api.publish("acme")).invoice.total)
    return totals


@pytest.mark.req("S4", "S9")
async def test_publishing_includes_unannounced_usage(world: World, api: Api) -> None:
    acme = await world.tenant()
    assert await steady_traffic(world, api) == ["0.05", "0.10", "0.15", "0.20", "0.25"]
    assert world.at_provider(acme) == 25


async def test_publishing_that_waits_for_announcements_is_detected(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: publishing waits for the replica instead of bringing it up to date."""
    await world.tenant()
    monkeypatch.setattr(Refreshing, "refresh", wait_for_announcement)
    with pytest.raises(aio.AioRpcError) as failure:
        await steady_traffic(world, api)
    assert failure.value.code() == grpc.StatusCode.ABORTED


async def wait_for_announcement(
    self: Refreshing, tenant: Tenant, period: Period, rules: Sequence[Rule]
) -> Set[str]:
    pulled = await self._freshness.pull(tenant, period, rules)
    async with self._unit_of_work.begin([tenant.tenant_id]) as tx:
        known = await usage_store.of_period(tx.connection, tenant.tenant_id, period.start)
    for window in pulled.windows:
        if window.usage.meter not in known or known[window.usage.meter].revision < window.usage.revision:
            raise AbortedError("on its way")
    return pulled.unknown


async def test_fetched_usage_equals_usage_announced_later(world: World, api: Api) -> None:
    """The announcement of the same revision adds only the trace, which a fetched window lacks."""
    acme = await world.tenant()
    trace = ("12" * 16, "34" * 8)
    fact = world.mesh.capture("acme", CALL)
    first = await api.publish("acme")
    (window,) = fact.windows
    window.trace.trace_id, window.trace.span_id, window.trace.sampled = *trace, True
    await world.deliver("usage.window", fact)
    await eventually(lambda: world.rows("SELECT FROM usage WHERE trace LIKE %s", f"%{trace[0]}%"))
    assert await api.publish("acme") == first
    assert world.sends(acme) == 1
    assert len(world.rows("SELECT FROM calculations")) == 1
    # An announcement older than the fetched usage changes nothing.
    world.mesh.capture("acme", CALL)
    assert (await api.publish("acme")).invoice.total == "0.10"
    await world.deliver("usage.window", fact)
    await world.use("acme", "1")
    assert (await api.publish("acme")).invoice.total == "0.11"


@pytest.mark.req("T3.5")
async def test_reconcile_compares_unannounced_usage(world: World, api: Api) -> None:
    acme = await world.tenant()
    world.mesh.capture("acme", CALL)
    await api.publish("acme")
    world.mesh.capture("acme", CALL)
    assert await compared(api) == [("10", "5", "5", False)]
    # The fetched usage is stored, and becomes a gap when it is late.
    assert world.rows("SELECT value FROM usage") == [(Decimal(10),)]
    world.end_month(acme)
    assert (await api.reconcile("acme")).invoice.state == FINALIZED
    assert world.rows("SELECT reason, quantity FROM billing_gaps") == [("late_usage", Decimal(5))]


@pytest.mark.req("T3.5")
async def test_reconcile_with_stale_replica_is_detected(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: only announced usage is compared, and so everything seems to agree."""

    async def fetch_nothing(*_: object) -> Set[str]:
        return frozenset()

    await world.tenant()
    world.mesh.capture("acme", CALL)
    await api.publish("acme")
    world.mesh.capture("acme", CALL)
    monkeypatch.setattr(Refreshing, "refresh", fetch_nothing)
    assert await compared(api) == [("5", "5", "5", True)]


async def compared(api: Api) -> list[tuple[str, str, str, bool]]:
    """ReconcilePeriod's answer for each meter: usage, sent, the provider's, and whether they agree."""
    meters = (await api.reconcile("acme")).meters
    return [(one.usage, one.sent, one.provider, one.agrees) for one in meters]


async def test_preview_includes_unannounced_usage(world: World, api: Api) -> None:
    await world.tenant()
    world.mesh.capture("acme", [Event(NOW, value="4200")])
    preview = await api.preview("acme")
    assert (preview.total, preview.lines[0].event_count) == ("42.00", 1)
    assert world.rows("SELECT FROM usage") == []
    changed = await api.preview_with("acme", {"calls": "-200"})
    assert changed.invoice.total == "40.00"


async def test_preview_leaves_out_unknown_meter(world: World, api: Api) -> None:
    await world.tenant()
    await api.put("plan-acme", Priced("misspelt", PER_UNIT), "other_event")
    del world.mesh.meters["misspelt"]
    world.mesh.capture("acme", CALL)
    preview = await api.preview("acme")
    assert (preview.total, [line.meter for line in preview.lines]) == ("0.05", ["calls"])
    del world.mesh.meters["calls"]
    with pytest.raises(aio.AioRpcError, match="calls") as failure:
        await api.preview("acme")
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.usefixtures("api")
async def test_amounts_are_refused_while_aggregate_is_unavailable(
    world: World, start: StartPublisher
) -> None:
    """Prices are put at another replica, which reaches aggregate."""
    alone = await start(aggregate_address="127.0.0.1:1")
    await world.tenant()
    await world.use("acme", "10")
    for call in (alone.preview("acme"), alone.publish("acme"), alone.reconcile("acme")):
        with pytest.raises(aio.AioRpcError) as failure:
            await call
        assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    assert world.rows("SELECT FROM invoices") == []


async def test_publishing_waits_for_usage_under_rebuild(world: World, start: StartPublisher) -> None:
    patient = await start(freshness_wait_seconds=30.0)
    acme = await world.tenant()
    world.mesh.capture("acme", CALL)
    world.mesh.rebuilding.add(("acme", "calls"))
    publishing = asyncio.ensure_future(patient.publish("acme"))
    await eventually(lambda: world.mesh.asked.count("QueryUsage acme calls") > 1)
    assert world.rows("SELECT FROM usage") == []
    world.mesh.rebuilding.clear()
    answer = await publishing
    assert (answer.invoice.total, answer.invoice.state) == ("0.05", PUBLISHED)
    assert world.at_provider(acme) == 5


async def test_long_rebuild_is_answered_with_retry_delay(world: World, api: Api) -> None:
    acme = await world.tenant()
    world.mesh.capture("acme", CALL)
    world.mesh.rebuilding.add(("acme", "calls"))
    for call in (api.publish("acme"), api.preview("acme"), api.reconcile("acme")):
        with pytest.raises(aio.AioRpcError, match="calls is being rebuilt") as failure:
            await call
        assert failure.value.code() == grpc.StatusCode.ABORTED
        assert retry_after(failure.value) > 0
    assert world.sends(acme) == 0


async def test_month_without_remaining_events_is_rated_at_zero(world: World, api: Api) -> None:
    """The window of the month remains, with a higher revision and no events."""
    acme = await world.tenant()
    world.mesh.capture("acme", CALL)
    assert (await api.publish("acme")).invoice.total == "0.05"
    world.mesh.capture("acme", (), retracted=world.mesh.tenants["acme"].events)
    assert (await api.publish("acme")).invoice.total == "0.00"
    assert world.at_provider(acme) == 0


async def test_month_starts_agree_between_aggregate_and_publisher(world: World, api: Api) -> None:
    await world.tenant(zone="America/New_York")
    world.mesh.capture("acme", CALL)
    invoice = (await api.publish("acme")).invoice
    (kept,) = world.rows("SELECT period_start, value FROM usage")
    assert kept == (invoice.period_start.ToDatetime(tzinfo=UTC), Decimal(5))
