"""Periods before a tenant's first billed day are never billed; the period of that day is billed whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest

from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.test_billing_gaps import gaps_of
from tests.integration.publisher.test_closing import APRIL_NY, MARCH_NY, closed
from tests.integration.publisher.test_deliveries import refusal
from tests.integration.publisher.world import Api, World
from tests.support.fake_mesh import Event

NOT_YET = (grpc.StatusCode.FAILED_PRECONDITION, "NOT_BILLED_YET")


@pytest.mark.req("S1", "S9")
async def test_period_before_first_billed_day_is_not_billed(world: World, api: Api) -> None:
    acme = await world.tenant(billed_from="2026-03-15")
    await world.capture("acme", Event(datetime(2020, 6, 5, tzinfo=UTC), value="5000"))
    await world.use("acme", "7", datetime(2026, 3, 2, tzinfo=UTC))
    february = datetime(2026, 3, 1, tzinfo=UTC) - timedelta(microseconds=1)
    for at in (datetime(2020, 6, 20, tzinfo=UTC), february):
        assert await refusal(api.publish("acme", at)) == NOT_YET
        assert await refusal(api.preview("acme", at)) == NOT_YET
    assert (await api.publish("acme")).invoice.total == "0.07"
    assert world.at_provider(acme) == 7
    # Late usage before the first billed day is no gap, until an earlier first day is set.
    assert await gaps_of(api) == []
    account = (1, acme.customer, acme.subscription)
    await world.announce("acme", *account, version=2, billed_from="2020-06-30")
    assert await gaps_of(api) == [("acme", "calls", "LATE_USAGE", "5000")]
    await world.announce("acme", *account, version=3, billed_from="2020-07-01")
    assert await gaps_of(api) == []


@pytest.mark.req("S1", "S9")
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", "America/Havana"])
async def test_first_billed_day_is_in_tenant_time_zone(world: World, api: Api, zone: str) -> None:
    start = datetime(2026, 3, 1, tzinfo=ZoneInfo(zone))
    await world.tenant(zone=zone, start=start, billed_from="2026-03-01")
    assert (await api.preview("acme", start)).lines
    assert await refusal(api.preview("acme", start - timedelta(microseconds=1))) == NOT_YET


@pytest.mark.req("S1", "S5", "S9")
async def test_closing_skips_periods_before_first_billed_day(world: World, start: StartPublisher) -> None:
    world.clock.advance(APRIL_NY - timedelta(minutes=30) - world.now())
    closer = await start(close_check_seconds=0.05)
    here: dict[str, Any] = {"zone": "America/New_York", "start": MARCH_NY, "now": world.now()}
    late = await world.tenant("late", number=2, billed_from="2026-04-01", **here)
    await world.use("late", "3", MARCH_NY)
    # Announced after the other tenant, and closed: so closing has run since.
    await world.tenant("acme", billed_from="2026-03-31", **here)
    await world.use("acme", "2", MARCH_NY)
    assert await closed(closer, "acme") == "0.02"
    assert await closer.invoice_list("late") == []
    assert world.sends(late) == 0
