"""Times are whole microseconds, converted without floats."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.clock import ManualClock, SystemClock, to_datetime, to_us

pytestmark = pytest.mark.req("T1.5")

AWARE = st.datetimes(timezones=st.timezones())


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_time_round_trips_through_microseconds(us: int) -> None:
    assert to_us(to_datetime(us)) == us


@given(AWARE, st.integers(-12, 14))
def test_conversion_is_independent_of_the_zone(moment: datetime, hours: int) -> None:
    try:
        elsewhere = moment.astimezone(timezone(timedelta(hours=hours)))
    except OverflowError:
        return  # beyond the range of datetime
    assert to_us(elsewhere) == to_us(moment)


def test_microseconds_beyond_float_precision_are_kept() -> None:
    moment = datetime(2262, 4, 11, 23, 47, 16, 854_775, tzinfo=UTC)
    assert to_datetime(to_us(moment)) == moment


def test_naive_time_is_refused() -> None:
    with pytest.raises(TypeError):
        to_us(datetime(2026, 1, 1))  # noqa: DTZ001 - naive on purpose


def test_system_clock_returns_microseconds() -> None:
    before = to_us(datetime.now(UTC))
    now = SystemClock().now_us()
    assert before <= now <= to_us(datetime.now(UTC))


def test_manual_clock_moves_only_by_advance() -> None:
    clock = ManualClock(5)
    assert (clock.now_us(), clock.now_us()) == (5, 5)
    clock.advance(timedelta(hours=1, microseconds=1))
    assert clock.now_us() == 3_600_000_006
