"""Each tenant is billed only by the provider that it chose."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

import grpc
import pytest
from meterline.calendar import Period
from meterline.telemetry import metrics
from meterline.tenants import Tenant
from meterline_publisher.gaps.service import Gaps
from meterline_publisher.main import Publisher
from meterline_publisher.providers.port import Delivery, UsageEvent
from meterline_publisher.providers.registry import Providers
from meterline_publisher.publishing.service import Publishing
from meterline_publisher.rating.service import Rated

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher, settings
from tests.integration.publisher.test_billing_gaps import END, counted, gaps_of, listed
from tests.integration.publisher.test_deliveries import refusal
from tests.integration.publisher.two_providers import Two, priced, sent, two_providers
from tests.integration.publisher.world import FINALIZED, NOW, PUBLISHED, START, Api, World
from tests.support.fake_billing import FakeBilling, busy, registry
from tests.support.fake_mesh import timestamp
from tests.support.polling import eventually
from tests.support.services import running

pytestmark = pytest.mark.req("S6", "S8", "S9")

LATE = END - timedelta(minutes=30)
NO_PROVIDER = (grpc.StatusCode.FAILED_PRECONDITION, "NO_BILLING_PROVIDER")


@dataclass
class SlowBilling(FakeBilling):
    """Never answers."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def send_usage(self, event: UsageEvent) -> Delivery:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
def two(world: World) -> Two:
    return two_providers(world)


# --- two providers at once


async def test_each_tenant_is_billed_by_its_chosen_provider(two: Two, start: StartPublisher) -> None:
    """`one` uses the default provider, `two` names the same provider, `three` names another."""
    world, api = two.world, await two.reloaded(start)
    await priced(api)
    chosen = {"one": None, "two": "stripe", "three": "other"}
    for number, (slug, provider) in enumerate(chosen.items(), 1):
        await two.choose(slug, number, provider, f"cus_{slug}")
        await world.use(slug, "150")
        assert (await api.publish(slug)).invoice.state == PUBLISHED
    assert sorted(sent(two.first)) == [("cus_one", 150), ("cus_two", 150)]
    assert sent(two.other) == [("cus_three", 150)]
    assert world.rows("SELECT provider FROM publications ORDER BY tenant_id") == [
        ("stripe",),
        ("stripe",),
        ("other",),
    ]
    # Sums, invoices and rounding are those of each tenant's provider.
    for slug, billing, total in (("one", two.first, "1.50"), ("three", two.other, "2")):
        two.finish(billing, f"cus_{slug}", total)
        answer = await api.reconcile(slug)
        assert [(meter.provider, meter.agrees) for meter in answer.meters] == [("150", True)]
        assert answer.invoice.state == FINALIZED
    assert (await api.preview("two")).total == "1.50"


async def test_each_provider_gets_only_quantities_that_it_accepts(two: Two, start: StartPublisher) -> None:
    world, api = two.world, await two.reloaded(start)
    await priced(api)
    for number, (slug, provider) in enumerate((("one", ""), ("two", "other")), 1):
        await two.choose(slug, number, provider, f"cus_{slug}")
        await world.use(slug, "1000")
        await api.publish(slug)
    assert sent(two.first) == [("cus_one", 1000)]
    assert two.other.calls == 0
    assert await gaps_of(api) == [("two", "calls", "QUANTITY_NOT_DELIVERABLE", "")]
    # A rejection by one provider does not apply to another, which is tried separately.
    await two.choose("two", 2, "stripe", "cus_two", version=2)
    again = await two.reloaded(start)
    await again.publish("two")
    assert sent(two.first) == [("cus_one", 1000), ("cus_two", 1000)]
    assert await gaps_of(api) == []


async def test_closing_and_settling_use_each_tenants_provider(two: Two, start: StartPublisher) -> None:
    world = two.world
    world.clock.advance(LATE - world.now())
    api = await two.reloaded(start, close_check_seconds=0.05, settle_seconds=0.05)
    await priced(api)
    for number, (slug, provider) in enumerate((("one", ""), ("two", "other")), 1):
        await two.choose(slug, number, provider, f"cus_{slug}")
        await world.use(slug, "100")
    for slug, billing in (("one", two.first), ("two", two.other)):
        await eventually(partial(sent, billing))
        assert sent(billing) == [(f"cus_{slug}", 100)]
        two.finish(billing, f"cus_{slug}", "1")
    world.clock.advance(timedelta(hours=2))
    finalized = "SELECT FROM invoices WHERE state = 'finalized'"
    await eventually(lambda: len(world.rows(finalized)) == 2)


async def test_unresponsive_provider_does_not_block_another(two: Two, start: StartPublisher) -> None:
    world, slow = two.world, SlowBilling(two.world.now)
    api = await start(slow, two.other, publish_wait_seconds=0.0, send_concurrency=1)
    await priced(api)
    for number, (slug, provider) in enumerate((("one", ""), ("two", "other")), 1):
        await two.choose(slug, number, provider, f"cus_{slug}")
        await world.use(slug, "5")
        await api.publish(slug)
        await slow.asked.wait()
    await eventually(lambda: sent(two.other) == [("cus_two", 5)])


async def test_closing_retries_at_new_provider_after_rejection(two: Two, start: StartPublisher) -> None:
    """The difference is unchanged, and so would not be retried at the provider that rejected it."""
    world = two.world
    world.clock.advance(LATE - world.now())
    api = await two.reloaded(start, close_check_seconds=0.05)
    await priced(api)
    await two.choose("acme", 1, "other", "cus_acme")
    await world.use("acme", "1000")
    await eventually(lambda: gaps_of(api))
    await two.choose("acme", 1, "stripe", "cus_acme", version=2)
    dear = Priced("calls", PER_UNIT | {"unit": "0.02"})
    await api.put("gold", dear, "event", version=2, effective_from=timestamp(START))
    await eventually(lambda: sent(two.first) == [("cus_acme", 1000)])
    await eventually(lambda: gaps_of(api), until=lambda found: found == [])
    assert two.other.calls == 0


# --- a provider that is not configured


async def test_usage_for_unconfigured_provider_is_held_and_not_sent_elsewhere(
    two: Two, start: StartPublisher
) -> None:
    world = two.world
    world.clock.advance(LATE - world.now())
    api = await start(two.first, close_check_seconds=0.05, settle_seconds=0.05)
    await priced(api)
    await two.choose("acme", 1, "other", "cus_acme")
    await world.use("acme", "7")
    held = [("acme", "", "NO_BILLING_PROVIDER", "")]
    await eventually(lambda: gaps_of(api), until=lambda found: found == held)
    assert "billing provider other" in (await listed(api))[0].detail
    await eventually(lambda: counted("no_billing_provider") == 1)
    (configured,) = metrics.BILLING_PROVIDERS.collect()
    assert [sample.value for sample in configured.samples] == [1]
    assert (await api.preview("acme")).total == "0.07"
    for ask in (api.publish, api.reconcile):
        assert await refusal(ask("acme")) == NO_PROVIDER
    # Usage is held for its provider even after the closing time, when other tenants' usage is late.
    world.clock.advance(timedelta(days=20))
    await two.choose("one", 2, "", "cus_one")
    for slug in ("acme", "one"):
        await world.use(slug, "3", datetime(2026, 2, 27, tzinfo=UTC))
    (late, *_, last) = await listed(api)
    assert await gaps_of(api) == [
        ("acme", "calls", "NO_BILLING_PROVIDER", "3"),
        *held,
        ("one", "calls", "LATE_USAGE", "3"),
    ]
    assert late.detail == "billing provider other is not configured here"
    assert last.detail == "the time for closing is over"
    assert two.first.calls == 0
    assert world.rows("SELECT FROM publications") == []
    assert await api.invoice_list("acme") == []
    # Once the provider is configured, the next close sends it the held usage.
    two.other.clocks["cus_acme"] = LATE  # this provider rejects usage that is older than 35 days
    later = await two.reloaded(start, close_check_seconds=0.05)
    await eventually(lambda: len(two.other.kept) == 2)
    assert sorted(sent(two.other)) == [("cus_acme", 3), ("cus_acme", 7)]
    await eventually(
        lambda: gaps_of(later), until=lambda found: found == [("one", "calls", "LATE_USAGE", "3")]
    )
    assert two.first.calls == 0


async def test_closing_does_not_rate_held_periods(
    two: Two, start: StartPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tenant gets a further held period every month, and each rating is a transaction."""
    world, runs, rated = two.world, 0, list[str]()
    rate, count = Publishing.rate, Gaps.count

    async def watched(
        publishing: Publishing, tenant: Tenant, period: Period, *, retry_rejected: bool
    ) -> Rated:
        rated.append(tenant.slug)
        return await rate(publishing, tenant, period, retry_rejected=retry_rejected)

    async def counting(gaps: Gaps) -> None:
        nonlocal runs
        runs += 1
        await count(gaps)

    monkeypatch.setattr(Publishing, "rate", watched)
    monkeypatch.setattr(Gaps, "count", counting)
    world.clock.advance(LATE - world.now())
    api = await start(two.first, close_check_seconds=0.05)
    await priced(api)
    await two.choose("acme", 1, "other", "cus_acme")
    await world.use("acme", "7")
    await eventually(lambda: gaps_of(api))
    world.clock.advance(timedelta(days=20))
    before = runs + 2  # the current run may have begun earlier
    await eventually(lambda: runs >= before)
    rated.clear()
    await eventually(lambda: runs >= before + 3)
    assert rated == []
    assert await gaps_of(api) == [("acme", "", "NO_BILLING_PROVIDER", "")]


async def test_held_usage_is_sent_to_provider_chosen_later(two: Two, start: StartPublisher) -> None:
    world = two.world
    world.clock.advance(LATE - world.now())
    api = await start(two.first, close_check_seconds=0.05)
    await priced(api)
    await two.choose("acme", 1, "strpie", "cus_acme")
    await world.use("acme", "7")
    await eventually(lambda: gaps_of(api))
    world.clock.advance(timedelta(days=20))
    await two.choose("acme", 1, "stripe", "cus_acme", version=2)
    await eventually(lambda: sent(two.first) == [("cus_acme", 7)])
    await eventually(lambda: gaps_of(api), until=lambda found: found == [])


async def test_publications_wait_for_provider_that_is_no_longer_configured(
    two: Two, start: StartPublisher
) -> None:
    world = two.world
    two.other.faults = [busy() for _ in range(10_000)]
    given = settings(world, publish_wait_seconds=0.0)
    async with running(Publisher(given, world.clock, registry(two.first, two.other))) as channel:
        api = Api(channel, world.mesh)
        await priced(api)
        await two.choose("acme", 1, "other", "cus_acme")
        await world.use("acme", "5")
        await api.publish("acme")
        await eventually(lambda: two.other.calls > 3)
    waiting = "SELECT provider, state FROM publications WHERE state <> 'sent'"
    await eventually(lambda: world.rows(waiting) == [("other", "pending")])
    two.other.faults.clear()
    without = await start(two.first, settle_seconds=0.05)
    await two.choose("one", 2, "", "cus_one")
    await world.use("one", "6")
    await without.publish("one")
    assert sent(two.first) == [("cus_one", 6)]
    assert world.rows(waiting) == [("other", "pending")]
    assert await refusal(without.reconcile("acme")) == NO_PROVIDER
    await two.reloaded(start)
    await eventually(lambda: world.rows(waiting) == [])
    assert (sent(two.first), sent(two.other)) == ([("cus_one", 6)], [("cus_acme", 5)])


# --- the planted bug


async def test_provider_fallback_is_detected(
    two: Two, start: StartPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: usage for a provider that is not configured is sent to the default provider."""
    of = Providers.of

    def any_of(providers: Providers, chosen: str) -> FakeBilling:
        found = of(providers, chosen)
        return cast("FakeBilling", found if found.capabilities.bills else of(providers, ""))

    monkeypatch.setattr(Providers, "of", any_of)
    api = await start(two.first)
    await priced(api)
    await two.choose("acme", 1, "other", "cus_acme")
    await two.world.use("acme", "7", NOW)
    await api.publish("acme")
    assert sent(two.first) == [("cus_acme", 7)]
