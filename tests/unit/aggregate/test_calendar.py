"""Days and months of a time zone: their start, their length, and that they leave no gap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline.bounds import EARLIEST_US, LATEST_US
from meterline.clock import to_datetime, to_us
from meterline_aggregate.windows.calendar import (
    HOUR_US,
    MINUTE_US,
    Grain,
    OddMinuteError,
    end_of,
    lineage_end,
    local_starts,
    windows_at,
)

from tests.support.folding import ZONES, times

pytestmark = pytest.mark.req("T2.2")

zones = st.one_of(st.sampled_from(ZONES), st.sampled_from(sorted(available_timezones() - {"localtime"})))


def us(text: str) -> int:
    return to_us(datetime.fromisoformat(text))


def day_hours(zone: str, moment: str) -> float:
    start = windows_at(zone, us(moment)).day
    return (end_of(Grain.DAY, zone, start) - start) / HOUR_US


@pytest.mark.parametrize(
    ("zone", "moment", "hours"),
    [
        ("America/New_York", "2026-03-08T12:00+00:00", 23),
        ("America/New_York", "2026-11-01T12:00+00:00", 25),
        ("America/New_York", "2026-11-02T12:00+00:00", 24),
        ("Australia/Lord_Howe", "2026-04-04T20:00+00:00", 24.5),
        ("Australia/Lord_Howe", "2026-10-03T20:00+00:00", 23.5),
        # Midnight is skipped: the day begins at one o'clock.
        ("America/Sao_Paulo", "2018-11-04T12:00+00:00", 23),
        ("Africa/Cairo", "2024-04-26T12:00+00:00", 23),
        # Midnight is repeated: the day begins with the first one.
        ("America/Havana", "2025-11-02T12:00+00:00", 25),
        # The last hour before midnight is repeated.
        ("America/Sao_Paulo", "2018-02-17T12:00+00:00", 25),
        # A minute after midnight clocks go back by an hour: the repeated hour belongs to the new day.
        ("America/St_Johns", "2009-11-01T12:00+00:00", 25),
        ("Asia/Kolkata", "2026-11-01T12:00+00:00", 24),
        ("UTC", "2024-02-29T12:00+00:00", 24),
    ],
)
def test_day_length_follows_clock_changes(zone: str, moment: str, hours: float) -> None:
    assert day_hours(zone, moment) == hours


@pytest.mark.parametrize("minutes", [-1, 0, 1, 30, 59, 60, 61])
def test_repeated_date_stays_ended(minutes: int) -> None:
    """In St. John's clocks went from 00:01 on November 1 back to 23:01 on October 31."""
    start = us("2009-11-01T02:30+00:00")
    moment = start + minutes * MINUTE_US
    found = windows_at("America/St_Johns", moment).day
    assert (found == start) is (minutes >= 0)
    assert local_starts("America/St_Johns", np.array([moment]))[0].tolist() == [found]


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end"),
    [
        ("America/New_York", "2026-11-30T23:00+00:00", "2026-11-01T04:00+00:00", "2026-12-01T05:00+00:00"),
        ("Asia/Kolkata", "2026-10-31T18:29:59+00:00", "2026-09-30T18:30+00:00", "2026-10-31T18:30+00:00"),
        ("Asia/Kolkata", "2026-10-31T18:30+00:00", "2026-10-31T18:30+00:00", "2026-11-30T18:30+00:00"),
        ("Asia/Kathmandu", "2026-01-31T18:15+00:00", "2026-01-31T18:15+00:00", "2026-02-28T18:15+00:00"),
        ("UTC", "2024-02-29T23:59:59.999999+00:00", "2024-02-01T00:00+00:00", "2024-03-01T00:00+00:00"),
        ("UTC", "2026-12-31T23:59+00:00", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        # Apia skipped December 30, 2011.
        ("Pacific/Apia", "2011-12-30T10:00+00:00", "2011-12-01T10:00+00:00", "2011-12-31T10:00+00:00"),
    ],
)
def test_months_begin_at_local_midnight(zone: str, moment: str, start: str, end: str) -> None:
    found = windows_at(zone, us(moment)).month
    assert (found, end_of(Grain.MONTH, zone, found)) == (us(start), us(end))


@given(zones, times)
@settings(deadline=None)
def test_instant_lies_in_its_windows(zone: str, moment: int) -> None:
    windows = windows_at(zone, moment)
    for grain, start in zip(Grain, windows, strict=True):
        assert start <= moment < end_of(grain, zone, start)
    assert windows.month <= windows.day
    assert windows.lineage <= moment < lineage_end(zone, windows.lineage)
    assert lineage_end(zone, windows.lineage) <= end_of(Grain.DAY, zone, windows.day)


@given(zones, times)
@settings(deadline=None)
def test_windows_are_contiguous(zone: str, moment: int) -> None:
    windows = windows_at(zone, moment)
    for grain in Grain:
        end = end_of(grain, zone, windows[grain - 1])
        assert windows_at(zone, end)[grain - 1] == end
    assert windows_at(zone, lineage_end(zone, windows.lineage)).lineage == lineage_end(zone, windows.lineage)


@given(zones, times)
@settings(deadline=None)
def test_day_begins_when_clocks_first_show_its_date(zone: str, moment: int) -> None:
    start = windows_at(zone, moment).day
    before, after = (to_datetime(us).astimezone(ZoneInfo(zone)) for us in (start - 1, start))
    assert before.date() < after.date()
    month = windows_at(zone, moment).month
    before, after = (to_datetime(us).astimezone(ZoneInfo(zone)) for us in (month - 1, month))
    assert (before.year, before.month) < (after.year, after.month)


@given(zones, st.lists(times, min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_column_gives_the_same_windows_as_single_instants(zone: str, moments: list[int]) -> None:
    minutes = np.array(moments, np.int64) // MINUTE_US * MINUTE_US
    try:
        days, months = local_starts(zone, minutes)
    except OddMinuteError:
        assert any(windows_at(zone, moment + step).day % MINUTE_US for moment in moments for step in DAYS)
        return
    expected = [windows_at(zone, moment) for moment in minutes.tolist()]
    assert days.tolist() == [windows.day for windows in expected]
    assert months.tolist() == [windows.month for windows in expected]
    # The whole minute belongs to the day in which it begins.
    for moment, day in zip(moments, days.tolist(), strict=True):
        assert windows_at(zone, moment).day == day


DAYS = [step * 24 * HOUR_US for step in (-2, -1, 0, 1, 2)]


def test_utc_offsets_with_seconds_are_supported() -> None:
    """Monrovia was 44 minutes and 30 seconds behind until 1972."""
    moment = us("1971-06-01T12:00+00:00")
    with pytest.raises(OddMinuteError):
        local_starts("Africa/Monrovia", np.array([moment]))
    assert to_datetime(windows_at("Africa/Monrovia", moment).day) == datetime(
        1971, 6, 1, 0, 44, 30, tzinfo=UTC
    )


def test_calendar_covers_the_allowed_range_of_times() -> None:
    for moment in (EARLIEST_US, LATEST_US - 1):
        for zone in ZONES:
            start = windows_at(zone, moment).month
            assert end_of(Grain.MONTH, zone, start) - start <= timedelta(days=32) // timedelta(microseconds=1)
