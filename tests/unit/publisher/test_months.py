"""Billing periods: calendar months of any time zone, without gaps, through changes of the clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_publisher.billing.months import month_before, month_of
from meterline_publisher.closing.job import due_periods

pytestmark = pytest.mark.req("S5", "S9", "T1.5")

zones = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)
moments = st.timedeltas(timedelta(0), timedelta(days=15_000)).map(
    lambda since: datetime(1995, 1, 1, tzinfo=UTC) + since
)


@given(moments, zones)
def test_a_moment_lies_in_its_month_and_months_touch(at: datetime, zone: ZoneInfo) -> None:
    month = month_of(at, zone)
    assert at in month
    assert month_of(month.start, zone) == month
    assert month_of(month.end - timedelta(microseconds=1), zone) == month
    assert month_of(month.end, zone).start == month.end
    assert month_before(month, zone).end == month.start
    local = month.start.astimezone(zone)
    assert (local.day, local.month) == (1, at.astimezone(zone).month)


@pytest.mark.parametrize(
    ("zone", "month", "hours"),
    [
        ("UTC", 3, 744),
        ("America/New_York", 3, 743),
        ("America/New_York", 11, 721),
        ("Australia/Lord_Howe", 4, 720.5),
        ("Asia/Kolkata", 2, 672),
    ],
)
def test_a_month_is_as_long_as_it_really_is(zone: str, month: int, hours: float) -> None:
    period = month_of(datetime(2026, month, 15, tzinfo=UTC), ZoneInfo(zone))
    assert (period.end - period.start) / timedelta(hours=1) == hours


def test_a_month_whose_first_midnight_does_not_exist_begins_with_the_change() -> None:
    """In Asuncion clocks went from midnight to one on the first of October 2023."""
    period = month_of(datetime(2023, 10, 15, tzinfo=UTC), ZoneInfo("America/Asuncion"))
    assert period.start == datetime(2023, 10, 1, 4, tzinfo=UTC)
    assert period.start.astimezone(ZoneInfo("America/Asuncion")).hour == 1


def test_an_evening_that_is_shown_twice_belongs_to_the_new_month() -> None:
    """In St. John's clocks went from one past midnight of the first of November 2009 back to October."""
    zone = ZoneInfo("America/St_Johns")
    midnight = datetime(2009, 11, 1, 2, 30, tzinfo=UTC)
    again = midnight + timedelta(minutes=15)
    assert again.astimezone(zone).month == 10
    assert month_of(again, zone).start == midnight == month_of(midnight, zone).start
    assert month_before(month_of(again, zone), zone).end == midnight
    assert month_of(midnight - timedelta(microseconds=1), zone).end == midnight


LEAD, GRACE = timedelta(hours=1), timedelta(hours=72)
APRIL = datetime(2026, 4, 1, 4, tzinfo=UTC)  # in New York


@pytest.mark.parametrize(
    ("offset", "months"),
    [
        (timedelta(hours=-1, microseconds=-1), []),
        (timedelta(hours=-1), [3]),
        (timedelta(microseconds=-1), [3]),
        (timedelta(0), [3]),
        (GRACE - timedelta(microseconds=1), [3]),
        (GRACE, []),
    ],
)
def test_a_period_is_due_from_its_lead_until_its_invoice_must_be_final(
    offset: timedelta, months: list[int]
) -> None:
    zone = ZoneInfo("America/New_York")
    due = due_periods(APRIL + offset, zone, LEAD, GRACE)
    assert [period.start.astimezone(zone).month for period in due] == months


def test_two_periods_may_be_due_at_once() -> None:
    due = due_periods(APRIL + timedelta(hours=1), ZoneInfo("America/New_York"), timedelta(days=31), GRACE)
    assert [period.end for period in due] == [APRIL, datetime(2026, 5, 1, 4, tzinfo=UTC)]
