"""A meter that cannot be billed has a gap with a reason, and does not block other meters."""

from __future__ import annotations

from datetime import timedelta

import pytest
from grpc import aio
from meterline_publisher.gaps.rules import Gap
from meterline_publisher.prices.rules.rule_sets import RuleSet
from meterline_publisher.rating import pricing
from meterline_publisher.rating.rules.unbilled import billable

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.test_billing_gaps import END, closer, gaps_of
from tests.integration.publisher.test_deliveries import put
from tests.integration.publisher.world import FINALIZED, Api, World
from tests.support.polling import eventually

pytestmark = pytest.mark.req("S9", "S5", "C1")

EURO = PER_UNIT | {"currency": "EUR"}
NOW = END - timedelta(minutes=30)


async def misspelt(world: World, api: Api) -> None:
    """Adds a price of an unknown meter to acme's plan, like one put before PutPrice checked this."""
    await api.put("plan-acme", Priced("cals", PER_UNIT), "cals_event")
    del world.mesh.meters["cals"]


async def euro(world: World, api: Api) -> None:
    """Adds a price in another currency to acme's plan, like one put before PutPrice checked this."""
    await api.put("plan-euro", Priced("euro", EURO), "euro_event")
    world.rows(
        "INSERT INTO prices SELECT 'plan-acme', meter, version, effective_from, body, digest, description,"
        " billing_event_name, billing_scale FROM prices WHERE plan = 'plan-euro' RETURNING 1"
    )


async def total(api: Api) -> list[str]:
    return [invoice.total for invoice in await api.invoice_list("acme")]


async def test_unbillable_meters_are_gaps_and_others_are_billed(world: World, api: Api) -> None:
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT)])
    await misspelt(world, api)
    await euro(world, api)
    await world.use("acme", "10")
    assert (await api.preview("acme")).total == "0.10"
    assert (await api.publish("acme")).invoice.total == "0.10"
    assert world.at_provider(acme) == 10
    assert await gaps_of(api) == [
        ("acme", "euro", "CURRENCY_DIFFERS", "10"),
        ("acme", "cals", "METER_UNKNOWN", ""),
    ]
    # No calculation used either price, and so both can be withdrawn.
    stored = world.rows("SELECT rules::text FROM rule_sets")
    assert [("cals" in text, "euro" in text) for (text,) in stored] == [(False, False)]
    world.mesh.add_meter("cals", "another")
    await api.publish("acme")
    assert await gaps_of(api) == [("acme", "euro", "CURRENCY_DIFFERS", "10")]


async def test_left_out_meter_keeps_its_reason_after_final_invoice(world: World, api: Api) -> None:
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT)])
    await euro(world, api)
    await world.use("acme", "10")
    await api.publish("acme")
    world.end_month(acme)
    assert (await api.reconcile("acme")).invoice.state == FINALIZED
    assert await gaps_of(api) == [("acme", "euro", "CURRENCY_DIFFERS", "10")]
    await world.use("acme", "5")
    assert await gaps_of(api) == [
        ("acme", "euro", "CURRENCY_DIFFERS", "15"),
        ("acme", "calls", "LATE_USAGE", "5"),
    ]
    await world.use("acme", "-15")
    assert await gaps_of(api) == [("acme", "calls", "LATE_USAGE", "-10")]


async def test_closing_bills_meter_once_it_exists(world: World, start: StartPublisher) -> None:
    """The meter has no usage, and neither a price nor a plan changed."""
    api = await closer(world, start)
    await api.put("plan-acme", Priced("cals", PER_UNIT), "cals_event")
    del world.mesh.meters["cals"]
    await world.tenant(prices=[Priced("calls", PER_UNIT)], now=NOW)
    await world.use("acme", "10")
    unknown = ("acme", "cals", "METER_UNKNOWN", "")
    await eventually(lambda: gaps_of(api), until=lambda found: found == [unknown])
    assert await total(api) == ["0.10"]
    world.mesh.add_meter("cals", "another")
    await eventually(lambda: gaps_of(api), until=lambda found: found == [])
    (invoice,) = await api.invoice_list("acme")
    assert [line.meter for line in invoice.lines] == ["calls", "cals"]


async def test_closing_sends_rejected_usage_after_delivery_change(
    world: World, start: StartPublisher
) -> None:
    api = await closer(world, start)
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT)], now=NOW)
    await world.use("acme", "10.5")
    await eventually(
        lambda: gaps_of(api),
        until=lambda found: found == [("acme", "calls", "QUANTITY_NOT_DELIVERABLE", "")],
    )
    await put(api, 2, acme.events["calls"], scale=3)
    await eventually(lambda: world.at_provider(acme) == 10_500)
    await eventually(lambda: gaps_of(api), until=lambda found: found == [])
    states = "SELECT upper(state) FROM publications ORDER BY seq"
    # The provider stores the event shortly before the publication is marked as sent.
    await eventually(
        lambda: [state for (state,) in world.rows(states)], until=lambda found: found == ["REJECTED", "SENT"]
    )


@pytest.mark.parametrize("used", ["1000000000000000", "999999999999999999999"])
async def test_total_with_too_many_digits_is_a_gap_until_it_shrinks(
    world: World, api: Api, used: str
) -> None:
    """Events have up to 18 digits and their sums more; the provider accepts 15."""
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT)])
    await world.use("acme", used)
    # The invoice has the full total, to the cent.
    invoice = (await api.publish("acme")).invoice
    assert [line.quantity for line in invoice.lines] == [used]
    assert invoice.total == f"{used[:-2]}.{used[-2:]}"
    assert await gaps_of(api) == [("acme", "calls", "QUANTITY_NOT_DELIVERABLE", "")]
    details = [detail for (detail,) in world.rows("SELECT detail FROM billing_gaps")]
    assert details == [f"{used} was rejected: value_too_many_digits"]
    assert world.at_provider(acme) == 0

    await world.use("acme", str(999_999_999_999_999 - int(used)))
    await api.publish("acme")
    assert world.at_provider(acme) == 999_999_999_999_999
    assert await gaps_of(api) == []


async def test_billed_usage_remains_when_aggregate_loses_its_meter(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "10")
    before = (await api.publish("acme")).invoice
    del world.mesh.meters["calls"]
    await api.put("plan-acme", Priced("fee", {"model": "flat", "currency": "USD", "amount": "5"}))
    with pytest.raises(aio.AioRpcError, match="does not know it any more"):
        await api.publish("acme")
    assert list(await api.invoice_list("acme")) == [before]
    assert world.at_provider(acme) == 10


async def test_meter_that_blocks_others_is_detected(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: one price in another currency blocks the billing of its whole plan."""

    def all_or_nothing(rule_set: RuleSet, currency: str) -> tuple[RuleSet, list[Gap]]:
        kept, gaps = billable(rule_set, currency)
        return (RuleSet(()), gaps) if gaps else (kept, gaps)

    monkeypatch.setattr(pricing, "billable", all_or_nothing)
    await world.tenant(prices=[Priced("calls", PER_UNIT)])
    await euro(world, api)
    await world.use("acme", "10")
    with pytest.raises(aio.AioRpcError):
        await api.publish("acme")
