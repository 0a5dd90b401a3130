"""A tenant changes its billing provider: each period is billed by one provider only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest
from meterline_publisher.ledger.rules import accounts
from meterline_publisher.rating import service as rating_service

from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.test_billing_gaps import END, gaps_of, listed
from tests.integration.publisher.test_deliveries import refusal
from tests.integration.publisher.two_providers import Two, priced, sent, two_providers
from tests.integration.publisher.world import FINALIZED, PUBLISHED, Api, World
from tests.support.fake_billing import busy
from tests.support.polling import eventually

pytestmark = pytest.mark.req("S6", "S8", "S9")

APRIL = datetime(2026, 4, 10, tzinfo=UTC)
CHANGED = (grpc.StatusCode.FAILED_PRECONDITION, "CUSTOMER_CHANGED")
FINAL = (grpc.StatusCode.FAILED_PRECONDITION, "INVOICE_IS_FINAL")


@pytest.fixture
def two(world: World) -> Two:
    return two_providers(world)


async def moved(two: Two, start: StartPublisher) -> Api:
    """The first provider got 10 of March; then `acme` changed to the other provider, and used 4 more. The
    other provider has a final invoice for March."""
    world, api = two.world, await two.reloaded(start)
    await priced(api)
    await two.choose("acme", 1, "", "cus_old")
    await world.use("acme", "10")
    assert (await api.publish("acme")).invoice.total == "0.10"
    await two.choose("acme", 1, "other", "cus_new", version=2)
    two.finish(two.other, "cus_new", "0")
    await world.use("acme", "4")
    return await two.reloaded(start)


async def test_period_sent_to_one_provider_is_not_billed_by_another(two: Two, start: StartPublisher) -> None:
    world, api = two.world, await moved(two, start)
    assert await refusal(api.publish("acme")) == CHANGED
    (gap,) = await listed(api)
    assert await gaps_of(api) == [("acme", "", "CUSTOMER_CHANGED", "")]
    assert gap.detail.endswith("usage of this period went to the provider stripe")
    assert (sent(two.first), sent(two.other)) == ([("cus_old", 10)], [])
    # The new provider's final invoice does not finalize a period that the old provider bills.
    assert [invoice.state for invoice in await api.invoice_list("acme")] == [PUBLISHED]
    answer = await api.reconcile("acme")
    assert [(meter.sent, meter.provider, meter.agrees) for meter in answer.meters] == [("10", "10", False)]
    assert answer.invoice.state == PUBLISHED
    # The new provider bills the whole next month.
    world.clock.advance(APRIL - world.now())
    await world.use("acme", "6", APRIL)
    assert (await api.publish("acme", APRIL)).invoice.total == "0.06"
    assert (sent(two.first), sent(two.other)) == ([("cus_old", 10)], [("cus_new", 6)])


async def test_period_is_settled_at_its_old_provider_and_the_rest_is_late(
    two: Two, start: StartPublisher
) -> None:
    world, api = two.world, await moved(two, start)
    assert await refusal(api.publish("acme")) == CHANGED
    two.finish(two.first, "cus_old", "0.10")
    assert (await api.reconcile("acme")).invoice.state == FINALIZED
    assert await gaps_of(api) == [("acme", "calls", "LATE_USAGE", "4")]
    assert await refusal(api.publish("acme")) == FINAL
    assert await gaps_of(api) == [("acme", "calls", "LATE_USAGE", "4")]
    assert sent(two.other) == []
    assert world.rows("SELECT external_total FROM invoices") == [(Decimal("0.10"),)]


async def test_settling_job_asks_the_provider_of_the_period(two: Two, start: StartPublisher) -> None:
    world = two.world
    await moved(two, start)
    two.finish(two.first, "cus_old", "0.10")
    world.clock.advance(END + timedelta(hours=2) - world.now())
    await two.reloaded(start, settle_seconds=0.05)
    await eventually(lambda: world.rows("SELECT FROM invoices WHERE state = 'finalized'"))


async def test_change_back_to_old_provider_bills_the_rest(two: Two, start: StartPublisher) -> None:
    await moved(two, start)
    await two.choose("acme", 1, "stripe", "cus_old", version=3)
    api = await two.reloaded(start)
    assert (await api.publish("acme")).invoice.total == "0.14"
    assert await gaps_of(api) == []
    assert (sent(two.first), sent(two.other)) == ([("cus_old", 10), ("cus_old", 4)], [])


async def test_pending_usage_is_still_sent_to_old_provider(two: Two, start: StartPublisher) -> None:
    world = two.world
    two.first.faults = [busy() for _ in range(10_000)]
    api = await two.reloaded(start, publish_wait_seconds=0.0)
    await priced(api)
    await two.choose("acme", 1, "", "cus_acme")
    await world.use("acme", "10")
    await api.publish("acme")
    # Only the provider changes: the customer has the same id at both.
    await two.choose("acme", 1, "other", "cus_acme", version=2)
    again = await two.reloaded(start, publish_wait_seconds=0.0)
    assert await refusal(again.publish("acme")) == CHANGED
    two.first.faults.clear()
    await eventually(lambda: sent(two.first) == [("cus_acme", 10)])
    assert sent(two.other) == []


async def test_period_without_sent_usage_is_billed_by_new_provider(two: Two, start: StartPublisher) -> None:
    world, api = two.world, await two.reloaded(start)
    await priced(api)
    await two.choose("acme", 1, "", "cus_old")
    assert (await api.publish("acme")).invoice.total == "0.00"
    await two.choose("acme", 1, "other", "cus_new", version=2)
    await world.use("acme", "9")
    api = await two.reloaded(start)
    assert (await api.publish("acme")).invoice.total == "0.09"
    assert (sent(two.first), sent(two.other)) == ([], [("cus_new", 9)])


async def test_period_billed_by_both_providers_is_detected(
    two: Two, start: StartPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: usage sent to another provider does not bind the period to that provider."""
    monkeypatch.setattr(rating_service, "elsewhere", lambda own, rows: None)
    monkeypatch.setattr(accounts, "elsewhere", lambda own, rows: None)
    api = await moved(two, start)
    two.other.invoices.clear()
    await api.publish("acme")
    assert sent(two.first) == [("cus_old", 10)]
    # The other provider has nothing of the period and gets all of it: 10 are billed twice.
    assert sent(two.other) == [("cus_new", 14)]


async def test_period_sent_to_old_customer_is_settled_with_that_customer(
    two: Two, start: StartPublisher
) -> None:
    """The provider is the same for both customers, and has an invoice of the new customer too."""
    world, api = two.world, await two.reloaded(start)
    await priced(api)
    await two.choose("acme", 1, "", "cus_old")
    await world.use("acme", "10")
    await api.publish("acme")
    await two.choose("acme", 1, "stripe", "cus_new", version=2)
    two.finish(two.first, "cus_new", "0")
    await world.use("acme", "4")
    api = await two.reloaded(start)
    assert await refusal(api.publish("acme")) == CHANGED
    assert (await listed(api))[0].detail.endswith("usage of this period went to customer cus_old")
    assert (await api.reconcile("acme")).invoice.state == PUBLISHED
    two.finish(two.first, "cus_old", "0.10")
    assert (await api.reconcile("acme")).invoice.state == FINALIZED
    assert sent(two.first) == [("cus_old", 10)]
