"""Billing gaps: usage without an invoice line has a gap with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from grpc import aio
from meterline.telemetry import metrics
from meterline_protos.publisher.v1 import invoices_pb2
from meterline_publisher.closing import job
from meterline_publisher.closing.job import is_due
from meterline_publisher.closing.store import Candidate
from meterline_publisher.gaps import store as gaps_store
from meterline_publisher.gaps.rules import GapReason
from meterline_publisher.prices.rules.rule_sets import RuleSet
from meterline_publisher.rating import service as rating_service

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.world import FINALIZED, START, Api, World
from tests.support.fake_mesh import timestamp
from tests.support.polling import eventually

pytestmark = pytest.mark.req("S9", "T3.1")

END = datetime(2026, 4, 1, tzinfo=UTC)
Found = tuple[str, str, str, str]
"""Tenant, meter, reason, quantity."""


async def listed(api: Api, tenant: str = "", page_size: int = 0) -> list[invoices_pb2.BillingGap]:
    request = invoices_pb2.ListBillingGapsRequest(tenant_id=tenant, page_size=page_size)
    found: list[invoices_pb2.BillingGap] = []
    while True:
        answer = await api.invoices.ListBillingGaps(request)
        assert len(answer.gaps) <= (page_size or 100)
        found += answer.gaps
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


def short(gaps: Sequence[invoices_pb2.BillingGap]) -> list[Found]:
    return [
        (
            gap.tenant_id,
            gap.meter,
            invoices_pb2.BillingGapReason.Name(gap.reason).removeprefix("BILLING_GAP_REASON_"),
            gap.quantity,
        )
        for gap in gaps
    ]


async def gaps_of(api: Api, tenant: str = "") -> list[Found]:
    return short(await listed(api, tenant))


async def closer(world: World, start: StartPublisher) -> Api:
    """Starts a publisher that looks for periods to close every 0.05 s, half an hour before the month ends."""
    world.clock.advance(END - timedelta(minutes=30) - world.now())
    return await start(close_check_seconds=0.05)


async def unbillable_tenant(
    world: World, slug: str, number: int, *, plan: str, customer: str = "cus_unknown"
) -> None:
    """Adds a tenant with a usage of 10 whose default customer does not exist at the provider."""
    world.mesh.add_tenant(slug, number, "UTC")
    if "calls" not in world.mesh.meters:
        world.mesh.add_meter("calls")
    await world.announce(slug, number, customer, plan=plan)
    await world.use(slug, "10")


@pytest.mark.req("S5")
async def test_closing_records_why_usage_is_not_billed(world: World, start: StartPublisher) -> None:
    api = await closer(world, start)
    await api.put("late", Priced("calls", PER_UNIT), effective_from=timestamp(START + timedelta(days=1)))
    await api.put("euros", Priced("calls", PER_UNIT | {"currency": "EUR"}))
    await api.put("misspelt", Priced("cals", PER_UNIT))
    del world.mesh.meters["cals"]
    await api.put("good", Priced("calls", PER_UNIT))
    await unbillable_tenant(world, "a-no-plan", 11, plan="")
    await unbillable_tenant(world, "b-plan-unknown", 12, plan="nowhere")
    await unbillable_tenant(world, "c-price-later", 13, plan="late")
    await unbillable_tenant(world, "d-currency", 14, plan="euros")
    await unbillable_tenant(world, "e-meter", 15, plan="misspelt")
    await unbillable_tenant(world, "f-no-customer", 16, plan="good", customer="")
    await unbillable_tenant(world, "g-customer", 17, plan="good")
    expected = [
        ("a-no-plan", "", "NO_PLAN", ""),
        ("b-plan-unknown", "", "PLAN_UNKNOWN", ""),
        ("c-price-later", "", "PRICE_NOT_IN_FORCE", ""),
        ("d-currency", "calls", "CURRENCY_DIFFERS", "10"),
        ("e-meter", "calls", "METER_NOT_PRICED", "10"),
        ("e-meter", "cals", "METER_UNKNOWN", ""),
        ("f-no-customer", "", "NO_CUSTOMER", ""),
        ("g-customer", "", "CUSTOMER_UNKNOWN", ""),
    ]
    await eventually(lambda: gaps_of(api), until=lambda found: found == expected)
    assert await gaps_of(api, "d-currency") == [expected[3]]
    assert short(await listed(api, page_size=2)) == expected
    for gap in await listed(api):
        assert gap.detail
        assert gap.period_start.ToDatetime(tzinfo=UTC) == START
        assert gap.period_end.ToDatetime(tzinfo=UTC) == END
    assert counted("no_plan") == 1
    assert counted("late_usage") == 0
    assert world.rows("SELECT FROM invoices") == []
    # The gap ends when its cause is corrected.
    known = world.lab.customer(world.lab.clock(int(START.timestamp())))
    await world.announce("g-customer", 17, known, version=2, plan="good")
    await eventually(lambda: gaps_of(api), until=lambda found: found == expected[:-1])
    assert len(world.rows("SELECT FROM invoices WHERE tenant_id = 17")) == 1


def counted(reason: str) -> float:
    (metric,) = metrics.BILLING_GAPS.collect()
    return next(sample.value for sample in metric.samples if sample.labels == {"reason": reason})


async def test_tenants_without_usage_have_no_gap(world: World, start: StartPublisher) -> None:
    """A tenant with a gap is closed after them in the same run, so that their periods were checked before."""
    api = await closer(world, start)
    await world.announce("bare", 1, "cus_without_prices")
    await world.announce("free", 2)
    await world.announce("planless", 3, "cus_1", plan="")
    await unbillable_tenant(world, "used", 4, plan="nowhere")
    await eventually(lambda: gaps_of(api), until=lambda found: found == [("used", "", "PLAN_UNKNOWN", "")])
    for slug in ("bare", "free", "planless"):
        assert await gaps_of(api, slug) == []
        assert await api.invoice_list(slug) == []


async def test_fault_of_one_tenant_does_not_stop_closing_of_others(
    world: World, start: StartPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = rating_service.store

    async def store(tx: object, tenant: object, *rest: object) -> object:
        if getattr(tenant, "slug", "") == "broken":
            raise ZeroDivisionError
        return await healthy(tx, tenant, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rating_service, "store", store)
    api = await closer(world, start)
    now = END - timedelta(minutes=30)
    await world.tenant("broken", number=1, now=now)
    await world.use("broken", "1")
    await world.tenant("fine", number=2, now=now)
    await world.use("fine", "2")
    await eventually(
        lambda: api.invoice_list("fine"), until=lambda found: [i.total for i in found] == ["0.02"]
    )
    await eventually(lambda: gaps_of(api), until=lambda found: found == [("broken", "", "FAULT", "")])
    (gap,) = await listed(api, "broken")
    assert gap.detail == "ZeroDivisionError"


async def test_meters_without_price_are_gaps(world: World, api: Api) -> None:
    await world.tenant(prices=[Priced("calls", PER_UNIT)])
    world.mesh.add_meter("information")
    world.mesh.add_meter("soon")
    middle = timestamp(START + timedelta(days=5))
    await api.put("plan-acme", Priced("soon", PER_UNIT), effective_from=middle)
    await world.use("acme", "4")
    assert (await api.publish("acme")).invoice.total == "0.04"
    assert await gaps_of(api) == [
        ("acme", "information", "METER_NOT_PRICED", "4"),
        ("acme", "soon", "PRICE_NOT_IN_FORCE", "4"),
    ]
    (first, _) = await listed(api)
    await api.put("plan-acme", Priced("information", PER_UNIT))
    await world.use("acme", "1")
    assert (await api.publish("acme")).invoice.total == "0.10"
    assert await gaps_of(api) == [("acme", "soon", "PRICE_NOT_IN_FORCE", "5")]
    (again,) = await listed(api)
    assert again.since.ToDatetime(tzinfo=UTC) <= first.since.ToDatetime(tzinfo=UTC)


async def test_closing_rates_again_when_prices_change(world: World, start: StartPublisher) -> None:
    """Only the catalogue changed: there was neither new usage nor a call."""
    api = await closer(world, start)
    await world.tenant(now=END - timedelta(minutes=30))
    await world.use("acme", "10")
    await eventually(
        lambda: api.invoice_list("acme"), until=lambda found: [i.total for i in found] == ["0.10"]
    )
    dear = Priced("calls", PER_UNIT | {"unit": "0.07"})
    await api.put("plan-acme", dear, version=2, effective_from=timestamp(START))
    await eventually(
        lambda: api.invoice_list("acme"), until=lambda found: [i.total for i in found] == ["0.70"]
    )
    await api.put("plan-other", Priced("calls", PER_UNIT | {"unit": "0.02"}))
    (customer, subscription), *_ = world.rows(
        "SELECT external_customer_id, external_subscription_id FROM tenants WHERE slug = 'acme'"
    )
    await world.announce("acme", 1, customer, subscription, version=2, plan="plan-other")
    await eventually(
        lambda: api.invoice_list("acme"), until=lambda found: [i.total for i in found] == ["0.20"]
    )


async def test_quantity_that_provider_rejects_is_a_gap(world: World, api: Api) -> None:
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT), Priced("other", PER_UNIT)])
    meter = world.stripe_meter(acme).id
    world.lab.api.v1.billing.meters.deactivate(meter)
    await world.use("acme", "40")
    await api.publish("acme")
    assert await gaps_of(api) == [("acme", "calls", "QUANTITY_NOT_DELIVERABLE", "")]
    (gap,) = await listed(api)
    assert gap.detail == "40 was rejected: archived_meter"
    world.lab.api.v1.billing.meters.reactivate(meter)
    await api.publish("acme")
    assert await gaps_of(api) == []
    await world.use("acme", "0.5")
    await api.publish("acme")
    assert {found[1] for found in await gaps_of(api)} == {"calls", "other"}
    await world.use("acme", "0.5")
    await api.publish("acme")
    assert await gaps_of(api) == []


# --- late usage


async def final_month(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "10")
    await api.publish("acme")
    world.end_month(acme)
    assert (await api.reconcile("acme")).invoice.state == FINALIZED


@pytest.mark.req("T3.4")
async def test_usage_after_final_invoice_is_a_gap_with_its_quantity(world: World, api: Api) -> None:
    """The gap is recorded when the usage arrives, without a call for that month."""
    await final_month(world, api)
    assert await gaps_of(api) == []
    await world.use("acme", "5")
    assert await gaps_of(api) == [("acme", "calls", "LATE_USAGE", "5")]
    await world.use("acme", "-8")
    assert await gaps_of(api) == [("acme", "calls", "LATE_USAGE", "-3")]
    await world.use("acme", "3")
    assert await gaps_of(api) == []


async def test_usage_between_last_rating_and_final_invoice_is_a_gap(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "10")
    await api.publish("acme")
    world.end_month(acme)
    await world.use("acme", "5")
    # The provider's invoice is final, and the publisher does not know it yet.
    assert await gaps_of(api) == []
    with pytest.raises(aio.AioRpcError) as failure:
        await api.publish("acme")
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert await gaps_of(api) == [("acme", "calls", "LATE_USAGE", "5")]


async def test_usage_after_closing_time_is_a_gap_until_published(world: World, api: Api) -> None:
    await world.tenant()
    world.clock.advance(timedelta(days=20))
    await world.use("acme", "5")
    assert await gaps_of(api) == [("acme", "calls", "LATE_USAGE", "5")]
    assert (await api.publish("acme")).invoice.total == "0.05"
    assert await gaps_of(api) == []


async def test_period_that_was_final_before_first_rating_is_a_gap(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "5")
    world.end_month(acme)
    with pytest.raises(aio.AioRpcError, match="never rated before") as failure:
        await api.publish("acme")
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert await gaps_of(api) == [("acme", "", "LATE_USAGE", "")]


async def test_unrecorded_late_usage_is_detected(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: late usage is recorded only when its month is published."""

    async def do_nothing(*_: object) -> None: ...

    await final_month(world, api)
    monkeypatch.setattr(gaps_store, "note_late", do_nothing)
    await world.use("acme", "5")
    assert await gaps_of(api) == []


async def test_closing_that_skips_tenants_without_plan_is_detected(
    world: World, start: StartPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: closing skips tenants without a plan, and records no gap."""
    looked = asyncio.Event()

    def with_a_plan(candidate: Candidate, rule_set: RuleSet | None, made: Set[str]) -> bool:
        looked.set()
        return bool(candidate.plan) and is_due(candidate, rule_set, made)

    monkeypatch.setattr(job, "is_due", with_a_plan)
    api = await closer(world, start)
    await unbillable_tenant(world, "planless", 1, plan="")
    await asyncio.wait_for(looked.wait(), 60)
    await unbillable_tenant(world, "used", 2, plan="nowhere")
    await eventually(lambda: gaps_of(api), until=lambda found: found == [("used", "", "PLAN_UNKNOWN", "")])


# --- the API


async def test_gap_list_contains_only_its_tenant(world: World, api: Api) -> None:
    for number, slug in enumerate(("one", "two"), 1):
        await unbillable_tenant(world, slug, number, plan="nowhere")
        with pytest.raises(aio.AioRpcError):
            await api.publish(slug)
    assert [found[0] for found in await gaps_of(api)] == ["one", "two"]
    assert [found[0] for found in await gaps_of(api, "two")] == ["two"]
    with pytest.raises(aio.AioRpcError) as failure:
        await gaps_of(api, "nobody")
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND
    request = invoices_pb2.ListBillingGapsRequest(page_token="nonsense")
    with pytest.raises(aio.AioRpcError) as failure:
        await api.invoices.ListBillingGaps(request)
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


REASONS = invoices_pb2.BillingGapReason.DESCRIPTOR.values_by_name


def test_api_enum_has_every_gap_reason() -> None:
    names = {name.removeprefix("BILLING_GAP_REASON_") for name in REASONS}
    assert names == {reason.name for reason in GapReason} | {"UNSPECIFIED"}
