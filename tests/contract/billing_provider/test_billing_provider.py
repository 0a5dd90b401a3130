"""The contract of billing providers. The fake fulfils it, and so does the adapter of Stripe, which calls the
double through the official library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from meterline.calendar import Period
from meterline_dev.stripe_double import ControlClient, DoubleSettings, running_double
from meterline_publisher.providers.port import (
    AmbiguousError,
    BusyError,
    Delivery,
    RejectedError,
    UsageEvent,
)

from tests.contract.billing_provider.worlds import FakeWorld, StripeWorld, World
from tests.contract.stripe_double.lab import CONTROL_KEY, Lab

pytestmark = pytest.mark.req("S6", "S10", "T3.5")

MARCH = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
IN_MARCH = datetime(2026, 3, 20, 12, tzinfo=UTC)
TODAY = Period(
    datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2),
    datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=2),
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running_double(settings=DoubleSettings(control_key=CONTROL_KEY)) as double:
        yield double.address


@pytest.fixture(params=["fake", "stripe"])
async def world(request: pytest.FixtureRequest, address: str) -> AsyncIterator[World]:
    if request.param == "fake":
        made: World = FakeWorld()
        await made.provider.start()
        yield made
        await made.provider.stop()
        return
    with ControlClient(address, CONTROL_KEY) as control:
        made = StripeWorld(Lab(address, control))
        await made.provider.start()
        await made.provider.start()
        yield made
        await made.provider.stop()
        await made.provider.stop()


def event(name: str, customer: str, value: int = 5, at: datetime | None = None) -> UsageEvent:
    identifier = uuid4().hex
    moment = (at or datetime.now(UTC)).replace(microsecond=0)
    return UsageEvent(identifier, f"key-{identifier}", name, customer, Decimal(value), moment)


def again(sent: UsageEvent, key: str) -> UsageEvent:
    return UsageEvent(sent.identifier, key, sent.event_name, sent.customer, sent.value, sent.at)


async def test_sent_events_add_up_exactly(world: World) -> None:
    name, customer, other = world.meter(), world.customer(), world.customer()
    for value in (123_456_789_012_345, -45, 100):
        assert await world.provider.send_usage(event(name, customer, value)) is Delivery.ACCEPTED
    await world.provider.send_usage(event(name, other, 7))
    assert await world.provider.usage_total(customer, name, TODAY) == 123_456_789_012_400
    assert await world.provider.usage_total(other, name, TODAY) == 7
    assert await world.provider.usage_total(world.customer(), name, TODAY) == 0


async def test_total_covers_only_usage_of_its_period(world: World) -> None:
    name, customer = world.meter(), world.customer(IN_MARCH)
    inside = Period(IN_MARCH - timedelta(days=1), IN_MARCH)
    await world.provider.send_usage(event(name, customer, 1, inside.start))
    await world.provider.send_usage(event(name, customer, 2, inside.end - timedelta(seconds=1)))
    await world.provider.send_usage(event(name, customer, 4, inside.end))
    assert await world.provider.usage_total(customer, name, inside) == 3


async def test_provider_accepts_values_within_its_capabilities(world: World) -> None:
    taken = world.provider.capabilities
    name, customer = world.meter(), world.customer()
    longest = replace(event(name, customer, 1), identifier=uuid4().hex.ljust(taken.max_identifier, "x"))
    assert await world.provider.send_usage(longest) is Delivery.ACCEPTED
    greatest = 10**taken.max_digits - 1
    assert await world.provider.send_usage(event(name, customer, greatest)) is Delivery.ACCEPTED
    with pytest.raises(RejectedError):
        await world.provider.send_usage(event(name, customer, greatest + 1))
    assert await world.provider.usage_total(customer, name, TODAY) == greatest + 1
    assert taken.bills


async def test_identifier_counts_once(world: World) -> None:
    name, customer = world.meter(), world.customer()
    sent = event(name, customer)
    assert await world.provider.send_usage(sent) is Delivery.ACCEPTED
    assert await world.provider.send_usage(sent) is Delivery.ACCEPTED
    assert await world.provider.send_usage(again(sent, "another key")) is Delivery.KNOWN
    assert await world.provider.usage_total(customer, name, TODAY) == 5


async def test_identifier_is_forgotten_after_a_day(world: World) -> None:
    """Therefore the publisher reads the totals before it resends rows of that age."""
    name, customer = world.meter(), world.customer()
    sent = event(name, customer)
    await world.provider.send_usage(sent)
    world.forget()
    assert await world.provider.send_usage(sent) is Delivery.ACCEPTED
    assert await world.provider.usage_total(customer, name, TODAY) == 10


async def test_refused_call_changes_nothing_and_may_be_repeated(world: World) -> None:
    name, customer = world.meter(), world.customer()
    sent = event(name, customer)
    world.be_busy()
    with pytest.raises(BusyError):
        await world.provider.send_usage(sent)
    assert await world.provider.usage_total(customer, name, TODAY) == 0
    assert await world.provider.send_usage(sent) is Delivery.ACCEPTED
    assert await world.provider.usage_total(customer, name, TODAY) == 5


@pytest.mark.parametrize("after", [False, True])
async def test_lost_answer_is_ambiguous_and_may_be_repeated(world: World, after: bool) -> None:
    name, customer = world.meter(), world.customer()
    sent = event(name, customer)
    world.lose(after=after)
    with pytest.raises(AmbiguousError) as failure:
        await world.provider.send_usage(sent)
    assert not failure.value.replayed
    assert await world.provider.usage_total(customer, name, TODAY) == (5 if after else 0)
    assert await world.provider.send_usage(sent) is Delivery.ACCEPTED
    assert await world.provider.send_usage(again(sent, f"{sent.identifier}#1")) is Delivery.KNOWN
    assert await world.provider.usage_total(customer, name, TODAY) == 5


async def test_stored_failure_requires_a_new_idempotency_key(world: World) -> None:
    name, customer = world.meter(), world.customer()
    sent = event(name, customer)
    world.fail_and_remember()
    with pytest.raises(AmbiguousError) as first:
        await world.provider.send_usage(sent)
    with pytest.raises(AmbiguousError) as second:
        await world.provider.send_usage(sent)
    assert (first.value.replayed, second.value.replayed) == (False, True)
    assert await world.provider.send_usage(again(sent, f"{sent.identifier}#1")) is Delivery.ACCEPTED
    assert await world.provider.usage_total(customer, name, TODAY) == 5


@pytest.mark.parametrize(
    ("value", "at", "code"),
    [
        (10**15, IN_MARCH, "meter_event_value_too_many_digits"),
        (1, IN_MARCH - timedelta(days=36), "timestamp_too_far_in_past"),
        (1, IN_MARCH + timedelta(minutes=6), "timestamp_in_future"),
    ],
)
async def test_invalid_event_is_rejected_with_its_code(
    world: World, value: int, at: datetime, code: str
) -> None:
    name, customer = world.meter(), world.customer(IN_MARCH)
    with pytest.raises(RejectedError) as failure:
        await world.provider.send_usage(event(name, customer, value, at))
    assert failure.value.code == code
    assert await world.provider.usage_total(customer, name, MARCH) == 0


async def test_unknown_meter_is_rejected(world: World) -> None:
    with pytest.raises(RejectedError) as failure:
        await world.provider.send_usage(event("nobody_made_this", world.customer()))
    assert failure.value.code == "no_meter"
    with pytest.raises(RejectedError):
        await world.provider.usage_total(world.customer(), "nobody_made_this", TODAY)


async def test_new_meter_is_found_after_earlier_lookups(world: World) -> None:
    customer, first = world.customer(), world.meter()
    assert await world.provider.usage_total(customer, first, TODAY) == 0
    second = world.meter()
    assert await world.provider.usage_total(customer, second, TODAY) == 0


async def test_time_is_that_of_the_customers_clock(world: World) -> None:
    on_clock, real = world.customer(IN_MARCH), world.customer()
    assert await world.provider.now(on_clock) == IN_MARCH
    assert abs(await world.provider.now(real) - datetime.now(UTC)) < timedelta(minutes=1)
    world.subscribe(on_clock, world.meter(), MARCH)
    world.pass_to(on_clock, IN_MARCH + timedelta(days=1))
    assert await world.provider.now(on_clock) == IN_MARCH + timedelta(days=1)


@pytest.mark.req("S9")
async def test_invoice_is_drafted_finalised_and_bills_the_sent_usage(world: World) -> None:
    name, customer = world.meter(), world.customer(MARCH.start)
    subscription = world.subscribe(customer, name, MARCH)
    assert await world.provider.find_invoice(customer, subscription, MARCH) is None
    await world.provider.send_usage(event(name, customer, 1_234, MARCH.start))
    world.pass_to(customer, MARCH.end)
    draft = await world.provider.find_invoice(customer, subscription, MARCH)
    assert draft is not None
    assert not draft.final
    world.pass_to(customer, MARCH.end + timedelta(hours=1))
    final = await world.provider.find_invoice(customer, subscription, MARCH)
    assert final is not None
    assert (final.invoice_id, final.currency, final.total) == (draft.invoice_id, "USD", Decimal("12.34"))
    assert final.final
    assert not final.void
    april = Period(MARCH.end, datetime(2026, 5, 1, tzinfo=UTC))
    assert await world.provider.find_invoice(customer, subscription, april) is None


@pytest.mark.parametrize(("currency", "decimals"), [("USD", 2), ("JPY", 0), ("KWD", 2), ("ISK", 0)])
def test_provider_states_its_billing_precision(world: World, currency: str, decimals: int) -> None:
    assert world.provider.decimals(currency) == decimals
