"""Ends of periods: anniversaries, explicit boundaries, and the clocks that reach them."""

import calendar
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.stripe_double.lab import DAY, Lab, instant, period

FAST = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANCHORS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: int(moment.timestamp())
)


def months_later(anchor: int, months: int) -> int:
    """The anchor's day in a later month, or the last day of a shorter month."""
    start = datetime.fromtimestamp(anchor, UTC)
    year, month = start.year, start.month
    for _ in range(months):
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    day = start.day
    while day > calendar.monthrange(year, month)[1]:
        day -= 1
    return calendar.timegm((year, month, day, start.hour, start.minute, start.second))


@FAST
@given(
    anchor=st.one_of(
        ANCHORS, st.sampled_from([instant("2024-01-31T23:59:59"), instant("2023-12-30T00:00:00")])
    )
)
@pytest.mark.req("S9")
def test_periods_are_contiguous_anniversaries_of_the_anchor(lab: Lab, anchor: int) -> None:
    clock = lab.clock(anchor)
    subscription = lab.subscribe(lab.customer(clock), lab.price(lab.meter()))
    for month in range(1, 6):
        lab.advance(clock, months_later(anchor, month))
    found = [(invoice.period_start, invoice.period_end) for invoice in lab.invoices(subscription.id)]
    assert found == [(months_later(anchor, n), months_later(anchor, n + 1)) for n in range(5)]


@pytest.mark.req("S9")
def test_anchor_is_at_most_a_month_ahead(lab: Lab) -> None:
    now = instant("2026-03-10T08:00:00")
    clock = lab.clock(now)
    customer, price = lab.customer(clock), lab.price(lab.meter())
    latest = instant("2026-04-10T08:00:00")
    for anchor in (now - 1, latest + 1):
        with pytest.raises(stripe.InvalidRequestError) as error:
            lab.subscribe(customer, price, billing_cycle_anchor=anchor)
        assert error.value.param == "billing_cycle_anchor"
    first_of_month = instant("2026-04-01T00:00:00")
    subscription = lab.subscribe(customer, price, billing_cycle_anchor=first_of_month)
    assert (period(subscription), subscription.billing_cycle_anchor) == (
        (now, first_of_month),
        first_of_month,
    )
    lab.advance(clock, first_of_month)
    moved = lab.api.v1.subscriptions.retrieve(subscription.id)
    assert period(moved) == (first_of_month, instant("2026-05-01T00:00:00"))
    assert period(lab.subscribe(customer, price, billing_cycle_anchor=months_later(first_of_month, 1)))[
        1
    ] == (months_later(first_of_month, 1))


@pytest.mark.req("S9", "T7.4")
def test_backdated_start_includes_earlier_usage(lab: Lab) -> None:
    start, now = instant("2026-03-01T00:00:00"), instant("2026-03-20T00:00:00")
    clock, meter = lab.clock(now), lab.meter()
    customer = lab.customer(clock)
    lab.send(meter, customer, 5, at=start)
    lab.send(meter, customer, 50, at=start - 1)
    end = instant("2026-04-01T00:00:00")
    subscription = lab.subscribe(
        customer, lab.price(meter), backdate_start_date=start, billing_cycle_anchor=end
    )
    assert (subscription.start_date, period(subscription)) == (start, (start, end))
    lab.advance(clock, end)
    assert lab.invoice(subscription.id).total == 5
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.subscribe(customer, lab.price(meter), backdate_start_date=end + 1)
    assert error.value.param == "backdate_start_date"


def _local_months(zone: str, year: int, month: int, count: int) -> list[int]:
    """The first instants of `count` calendar months of a time zone."""
    firsts = []
    for _ in range(count):
        firsts.append(int(datetime(year, month, 1, tzinfo=ZoneInfo(zone)).timestamp()))
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return firsts


@pytest.mark.req("S9", "T1.5")
@pytest.mark.parametrize(("year", "month"), [(2026, 2), (2026, 10)])
def test_explicit_boundaries_bill_local_months_across_daylight_saving(
    lab: Lab, year: int, month: int
) -> None:
    """In New York, March and November differ from UTC anniversaries; no hour is lost or counted twice."""
    bounds = _local_months("America/New_York", year, month, 4)
    assert {end - start for start, end in pairwise(bounds)} & {31 * DAY - 3_600, 30 * DAY + 3_600}
    clock, meter = lab.clock(bounds[0]), lab.meter()
    customer = lab.customer(clock)
    metadata = {"meterline_period_boundaries": ",".join(map(str, bounds))}
    subscription = lab.subscribe(customer, lab.price(meter), metadata=metadata)
    for index, end in enumerate(bounds[1:]):
        lab.send(meter, customer, 10**index)
        lab.advance(clock, end - 1)
        lab.send(meter, customer, 2 * 10**index)
        lab.advance(clock, end)
    invoices = lab.invoices(subscription.id)
    assert [(invoice.period_start, invoice.period_end) for invoice in invoices] == list(pairwise(bounds))
    assert [invoice.total for invoice in invoices] == [3, 30, 300]
    # After the last boundary, periods are anniversaries of it.
    after = period(lab.api.v1.subscriptions.retrieve(subscription.id))
    assert after == (bounds[-1], months_later(bounds[-1], 1))


@pytest.mark.req("S9")
def test_boundaries_can_be_added_in_increasing_order(lab: Lab) -> None:
    start = instant("2026-03-01T05:00:00")
    clock = lab.clock(start)
    key = "meterline_period_boundaries"
    first, second = start + 10 * DAY, start + 25 * DAY
    customer, price = lab.customer(clock), lab.price(lab.meter())
    subscription = lab.subscribe(customer, price, metadata={key: str(first), "keep": "me"})
    assert period(subscription)[1] == first
    updated = lab.api.v1.subscriptions.update(subscription.id, {"metadata": {key: f"{first},{second}"}})
    assert updated.metadata.to_dict() == {key: f"{first},{second}", "keep": "me"}
    lab.advance(clock, first)
    assert period(lab.api.v1.subscriptions.retrieve(subscription.id)) == (first, second)
    for bad in (f"{second},{first}", f"{first},{first}", "tomorrow", "1.5", "-5"):
        with pytest.raises(stripe.InvalidRequestError) as error:
            lab.subscribe(customer, price, metadata={key: bad})
        assert error.value.param == f"metadata[{key}]"


@pytest.mark.req("S9")
def test_clock_advances_in_the_background_and_only_forward(lab: Lab) -> None:
    start = instant("2026-03-01T00:00:00")
    clock = lab.clock(start)
    answer = lab.api.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": start + 60})
    assert answer.status == "advancing"
    assert answer.status_details.advancing is not None
    assert answer.status_details.advancing.target_frozen_time == start + 60
    lab.advance(clock, start + 120)
    ready = lab.api.v1.test_helpers.test_clocks.retrieve(clock)
    assert (ready.status, ready.frozen_time) == ("ready", start + 120)
    for target in (start + 120, start):
        with pytest.raises(stripe.InvalidRequestError) as error:
            lab.api.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": target})
        assert error.value.param == "frozen_time"


@pytest.mark.req("S9")
def test_clock_with_subscriptions_advances_at_most_two_months(lab: Lab) -> None:
    start = instant("2026-03-01T00:00:00")
    empty, billed = lab.clock(start), lab.clock(start)
    lab.subscribe(lab.customer(billed), lab.price(lab.meter()))
    with pytest.raises(stripe.InvalidRequestError):
        lab.advance(billed, months_later(start, 2) + 1)
    lab.advance(billed, months_later(start, 2))
    with pytest.raises(stripe.InvalidRequestError):
        lab.advance(empty, months_later(start, 24) + 1)
    lab.advance(empty, months_later(start, 24))


@pytest.mark.req("T4.1")
def test_clocks_affect_only_their_own_customers(lab: Lab) -> None:
    start = instant("2026-03-01T00:00:00")
    moving, standing = lab.clock(start), lab.clock(start)
    price = lab.price(lab.meter())
    moved, stood = lab.subscribe(lab.customer(moving), price), lab.subscribe(lab.customer(standing), price)
    lab.advance(moving, start + int(timedelta(days=32).total_seconds()))
    assert len(lab.invoices(moved.id)) == 1
    assert lab.invoices(stood.id) == []
    found = lab.api.v1.subscriptions.list({"test_clock": standing})
    assert [entry.id for entry in found.data] == [stood.id]


@pytest.mark.req("S1")
@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"items": []}, "items"),
        ({"items": [{"price": "price_none"}]}, "items[0][price]"),
        ({"items": [{"quantity": 2}]}, "items[0][price]"),
        ({"collection_method": "send_invoice"}, "days_until_due"),
        ({"days_until_due": 5}, "days_until_due"),
        ({"trial_period_days": 5}, "trial_period_days"),
    ],
)
def test_invalid_subscriptions_are_refused(lab: Lab, params: Any, param: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.subscribe(lab.customer(), lab.price(lab.meter()), **params)
    assert (error.value.http_status, error.value.param) == (400, param)


@pytest.mark.req("S1")
def test_items_must_differ_and_share_a_currency(lab: Lab) -> None:
    customer, meter = lab.customer(), lab.meter()
    price, in_euro = lab.price(meter), lab.price(meter, unit_amount=1, currency="eur")
    for prices in ((price, price), (price, in_euro)):
        with pytest.raises(stripe.InvalidRequestError) as error:
            lab.subscribe(customer, *prices)
        assert error.value.param == "items"
