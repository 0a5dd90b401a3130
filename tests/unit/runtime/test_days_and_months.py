"""Local days and months begin when clocks first show them, and are contiguous, in every time zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline import calendar
from meterline.calendar import Period, day_of, is_zone, month_before, month_of, parse_day, start_of_day
from meterline.clock import to_datetime, to_us
from meterline.rpc.fields import EARLIEST, LATEST

from tests.support.folding import ZONES, times

pytestmark = pytest.mark.req("S5", "S9", "T1.5", "T2.2")

US = timedelta(microseconds=1)
DAY = timedelta(days=1)
NAMES = sorted(available_timezones() - {"localtime"})
zones = (st.sampled_from(ZONES) | st.sampled_from(NAMES)).map(ZoneInfo)
moments = times.map(to_datetime) | st.timedeltas(timedelta(0), timedelta(days=30_000)).map(
    lambda since: datetime(1970, 1, 2, tzinfo=UTC) + since
)


def shown(at: datetime, zone: ZoneInfo) -> date:
    """The date that clocks show."""
    return at.astimezone(zone).date()


@pytest.mark.parametrize("name", NAMES)
def test_days_begin_when_clocks_first_show_them_at_every_change_since_1970(name: str) -> None:
    zone = ZoneInfo(name)
    # Only the pure Python implementation exposes when clocks change.
    for seconds in import_module("zoneinfo._zoneinfo").ZoneInfo(name)._trans_utc:
        change = to_datetime(seconds * 1_000_000)
        if change.year < 1970:
            continue
        for day in (shown(change, zone) + step * DAY for step in (-1, 0, 1)):
            start = start_of_day(day, zone)
            assert shown(start - US, zone) < day <= shown(start, zone)
            # Where clocks skip a whole day, two days begin at once, and the first is empty.
            assert day_of(start, zone) == shown(start, zone)


@given(moments, zones)
@settings(deadline=None)
def test_instant_lies_in_its_day_and_days_are_contiguous(at: datetime, zone: ZoneInfo) -> None:
    day = day_of(at, zone)
    start, end = start_of_day(day, zone), start_of_day(day + DAY, zone)
    assert start <= at < end
    assert day_of(start, zone) == day == day_of(end - US, zone)
    assert day_of(end, zone) > day
    assert start_of_day(day_of(end, zone), zone) == end


@given(moments, zones)
@settings(deadline=None)
def test_day_is_the_latest_date_shown_by_clocks(at: datetime, zone: ZoneInfo) -> None:
    """Since 1970 no clock went back by more than four hours or showed a date for less than a minute."""
    assert day_of(at, zone) == max(shown(at - timedelta(minutes=step), zone) for step in range(240))


@given(moments, zones)
@settings(deadline=None)
def test_month_begins_with_its_first_day_and_months_are_contiguous(at: datetime, zone: ZoneInfo) -> None:
    month = month_of(at, zone)
    assert at in month
    assert month.start == start_of_day(day_of(at, zone).replace(day=1), zone)
    assert month_of(month.start, zone) == month == month_of(month.end - US, zone)
    assert month_of(month.end, zone).start == month.end
    assert month_before(month, zone).end == month.start
    assert timedelta(days=26) < month.end - month.start < timedelta(days=32)


@given(moments, zones)
@settings(deadline=None)
def test_microseconds_and_datetimes_have_the_same_calendar(at: datetime, zone: ZoneInfo) -> None:
    ordinal = calendar.day_at_us(zone, to_us(at))
    month = month_of(at, zone)
    assert date.fromordinal(ordinal) == day_of(at, zone)
    assert to_datetime(calendar.day_start_us(zone, ordinal)) == start_of_day(day_of(at, zone), zone)
    assert to_datetime(calendar.month_start_us(zone, ordinal)) == month.start
    assert to_datetime(calendar.month_end_us(zone, ordinal)) == month.end


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
def test_month_length_follows_clock_changes(zone: str, month: int, hours: float) -> None:
    period = month_of(datetime(2026, month, 15, tzinfo=UTC), ZoneInfo(zone))
    assert (period.end - period.start) / timedelta(hours=1) == hours


def test_month_without_first_midnight_begins_at_the_clock_change() -> None:
    """In Asuncion clocks went from 00:00 to 01:00 on October 1, 2023."""
    period = month_of(datetime(2023, 10, 15, tzinfo=UTC), ZoneInfo("America/Asuncion"))
    assert period.start == datetime(2023, 10, 1, 4, tzinfo=UTC)
    assert period.start.astimezone(ZoneInfo("America/Asuncion")).hour == 1


def test_repeated_evening_belongs_to_the_new_month() -> None:
    """In St. John's clocks went from 00:01 on November 1, 2009 back to October 31."""
    zone = ZoneInfo("America/St_Johns")
    midnight = datetime(2009, 11, 1, 2, 30, tzinfo=UTC)
    again = midnight + timedelta(minutes=15)
    assert again.astimezone(zone).month == 10
    assert day_of(again, zone) == date(2009, 11, 1)
    assert month_of(again, zone).start == midnight == month_of(midnight, zone).start
    assert month_before(month_of(again, zone), zone).end == midnight
    assert month_of(midnight - US, zone).end == midnight


@pytest.mark.parametrize("moment", [EARLIEST, LATEST - US])
@pytest.mark.parametrize("zone", ZONES)
def test_calendar_covers_the_first_and_last_allowed_times(zone: str, moment: datetime) -> None:
    month = month_of(moment, ZoneInfo(zone))
    assert moment in month
    assert month_before(month, ZoneInfo(zone)).end == month.start


def test_zones_are_found_by_name() -> None:
    assert is_zone("Europe/Berlin")
    for name in ("Europe/Atlantis", "", "../../etc/passwd", "\0"):
        assert not is_zone(name)


@given(st.dates(calendar.EARLIEST_DAY, calendar.LATEST_DAY))
def test_day_round_trips_through_text(day: date) -> None:
    assert parse_day(day.isoformat()) == day


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1969-12-31",
        "9999-01-01",
        "2026-02-30",
        "20260228",
        "2026-2-28",
        "2026-02-28\n",
        "\N{FULLWIDTH DIGIT TWO}026-02-28",
    ],
)
def test_invalid_day_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"day|written|month"):
        parse_day(text)


def test_period_is_half_open_and_never_empty() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    period = Period(start, start + US)
    assert start in period
    assert start + US not in period
    with pytest.raises(ValueError, match="empty"):
        Period(start, start)
    with pytest.raises(ValueError, match="no time zone"):
        Period(start.replace(tzinfo=None), start)
