"""Closing: usage is published automatically before its period ends, in the tenant's time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.world import PUBLISHED, Api, World
from tests.support.fake_mesh import Event, next_month
from tests.support.polling import eventually

# March ends at midnight in New York, after the clocks went forward on the 8th: it is 743 hours long.
MARCH_NY = datetime(2026, 3, 1, 5, tzinfo=UTC)
APRIL_NY = datetime(2026, 4, 1, 4, tzinfo=UTC)
# November has 721 hours there: the clocks go back on the 1st.
NOVEMBER_NY = datetime(2026, 11, 1, 4, tzinfo=UTC)
DECEMBER_NY = datetime(2026, 12, 1, 5, tzinfo=UTC)


async def closed(api: Api, slug: str = "acme") -> str:
    """Waits until the tenant's only invoice is published, and returns its total."""
    invoices = await eventually(
        lambda: api.invoice_list(slug), until=lambda found: [i.state for i in found] == [PUBLISHED]
    )
    return str(invoices[0].total)


@pytest.mark.req("S5", "S9", "T1.5")
@pytest.mark.parametrize(("begin", "end"), [(MARCH_NY, APRIL_NY), (NOVEMBER_NY, DECEMBER_NY)])
async def test_period_closes_at_month_end_of_tenant_time_zone(
    world: World, start: StartPublisher, begin: datetime, end: datetime
) -> None:
    world.clock.advance(end - timedelta(hours=2) - world.now())
    closer = await start(close_check_seconds=0.05)
    acme = await world.tenant(zone="America/New_York", start=begin, now=end - timedelta(hours=2))
    last = end - timedelta(microseconds=1)
    await world.capture("acme", Event(begin, value="1"), Event(last, value="2"), Event(end, value="40"))
    # A tenant with a longer lead is closed first, which proves that closing has run.
    await world.tenant(
        "early", number=2, zone="America/New_York", lead_seconds=3 * 3_600, start=begin, now=world.now()
    )
    await closed(closer, "early")
    assert await closer.invoice_list("acme") == []
    assert world.sends(acme) == 0
    world.lab.advance(acme.test_clock, int(end.timestamp()) - 60)
    world.clock.advance(timedelta(hours=1, minutes=59))
    assert await closed(closer) == "0.03"
    assert world.at_provider(acme) == 3
    (invoice,) = await closer.invoice_list("acme")
    assert invoice.period_start.ToDatetime(tzinfo=UTC) == begin
    assert invoice.period_end.ToDatetime(tzinfo=UTC) == end
    world.lab.advance(acme.test_clock, int(end.timestamp()) + 3_600)
    (external,) = world.lab.invoices(acme.subscription)
    assert external.total == 3


@pytest.mark.req("S5", "S9")
async def test_late_usage_is_sent_until_the_invoice_is_final(world: World, start: StartPublisher) -> None:
    end = datetime(2026, 4, 1, tzinfo=UTC)
    world.clock.advance(end - timedelta(minutes=30) - world.now())
    closer = await start(close_check_seconds=0.05)
    acme = await world.tenant(now=end - timedelta(minutes=30))
    await world.use("acme", "10", end - timedelta(days=1))
    assert await closed(closer) == "0.10"
    world.clock.advance(timedelta(minutes=40))
    world.end_month(acme, final=False)
    await world.use("acme", "5", end - timedelta(seconds=1))
    await eventually(lambda: world.at_provider(acme), until=lambda held: held == 15)
    world.end_month(acme)
    (external,) = world.lab.invoices(acme.subscription)
    assert external.total == 15
    await world.use("acme", "1", end - timedelta(seconds=1))
    await eventually(lambda: world.rows("SELECT FROM invoices WHERE state = 'finalized'"))
    assert world.at_provider(acme) == 15


@pytest.mark.req("S11")
async def test_closed_period_is_neither_queried_nor_written(world: World, start: StartPublisher) -> None:
    end = datetime(2026, 4, 1, tzinfo=UTC)
    world.clock.advance(end - timedelta(minutes=30) - world.now())
    closer = await start(close_check_seconds=0.02)
    await world.tenant(now=end - timedelta(minutes=30))
    await world.use("acme", "10", end - timedelta(days=1))
    await closed(closer)
    asked, written = len(world.mesh.asked), _written(world)
    # Another tenant is closed meanwhile, which proves that closing has run.
    await world.tenant("other", number=2, now=end - timedelta(minutes=30))
    await closed(closer, "other")
    assert [question for question in world.mesh.asked[asked:] if " acme " in question] == []
    assert _written(world) == written


async def test_closing_skips_tenants_without_prices_or_customers(world: World, start: StartPublisher) -> None:
    end = datetime(2026, 4, 1, tzinfo=UTC)
    world.clock.advance(end - timedelta(minutes=30) - world.now())
    closer = await start(close_check_seconds=0.02)
    await world.announce("bare", 1, "cus_without_prices")
    await world.announce("free", 2)
    await closer.put("plan-free", Priced("calls", PER_UNIT))
    await world.tenant(number=3, now=end - timedelta(minutes=30))
    assert await closed(closer) == "0.00"
    assert await closer.invoice_list("bare") == []
    assert await closer.invoice_list("free") == []


def _written(world: World) -> list[tuple[object, ...]]:
    """The row versions of the tenant's invoices, which change with every write."""
    return world.rows("SELECT xmin::text, version FROM invoices WHERE tenant_id = 1")


@pytest.mark.req("S5", "S9", "S2")
async def test_period_priced_from_its_first_day_is_closed(world: World, start: StartPublisher) -> None:
    """In Havana 1 November 2026 has two midnights, and the month begins with the first."""
    begin, end = datetime(2026, 11, 1, 4, tzinfo=UTC), datetime(2026, 12, 1, 5, tzinfo=UTC)
    world.clock.advance(end - timedelta(minutes=30) - world.now())
    closer = await start(close_check_seconds=0.05)
    day = {"effective_from": None, "effective_date": "2026-11-01"}
    await world.tenant(zone="America/Havana", start=begin, now=world.now(), effect=day)
    await world.use("acme", "7", begin)
    assert await closed(closer) == "0.07"


@pytest.mark.req("S1", "S5", "S9")
async def test_inactive_tenant_is_billed_for_its_last_period_only(
    world: World, start: StartPublisher
) -> None:
    """Its last period is closed as usual; later periods have neither invoice nor gap, despite the fee."""
    closer = await start(close_check_seconds=0.05)
    fee = Priced("calls", PER_UNIT | {"fixed": "5"})
    acme = await world.tenant(prices=[fee])
    await world.use("acme", "3")
    await world.announce("acme", 1, acme.customer, acme.subscription, version=2, active=False)
    end = world.end_month(acme, final=False)
    world.clock.advance(end - timedelta(minutes=30) - world.now())
    assert await closed(closer) == "5.03"
    assert world.at_provider(acme) == 3
    # A month later another tenant is closed, which proves that closing has run.
    later = month_end(end)
    world.clock.advance(later - timedelta(minutes=30) - world.now())
    await world.tenant("other", [fee], number=2, start=end, now=world.now())
    assert await closed(closer, "other") == "5.00"
    assert [invoice.total for invoice in await closer.invoice_list("acme")] == ["5.03"]
    assert world.rows("SELECT FROM billing_gaps") == []
    # The tenant is active again, and is billed its fee again.
    await world.announce("acme", 1, acme.customer, acme.subscription, version=3)
    await eventually(
        lambda: closer.invoice_list("acme"),
        until=lambda found: [invoice.total for invoice in found] == ["5.00", "5.03"],
    )


def month_end(start: datetime) -> datetime:
    """The end of the month that begins at `start`, in UTC."""
    return next_month(start, ZoneInfo("UTC"))
