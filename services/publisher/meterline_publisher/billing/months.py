"""Billing periods: calendar months of a tenant's time zone."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from meterline_publisher.billing.periods import Period, instant


def month_of(at: datetime, zone: ZoneInfo) -> Period:
    """The month of `zone` that `at` lies in; months follow each other without a gap or an overlap.

    A month begins at the first instant at which the zone's clocks show its first day. Where they skip that
    midnight it begins with the change; where they go back over it, what they then show again is no longer
    part of the month before.
    """
    local = instant(at).astimezone(zone)
    shown = _month(local.year, local.month, zone)
    return shown if at < shown.end else month_of(shown.end, zone)


def _month(year: int, month: int, zone: ZoneInfo) -> Period:
    years, following = divmod(year * 12 + month, 12)
    return Period(datetime(year, month, 1, tzinfo=zone), datetime(years, following + 1, 1, tzinfo=zone))


def month_before(period: Period, zone: ZoneInfo) -> Period:
    """The month of `zone` that ends where `period` begins."""
    return month_of(period.start - timedelta(microseconds=1), zone)
