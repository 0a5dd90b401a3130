"""Which billing periods are due for rating."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from meterline_publisher.closing.job import due_periods

pytestmark = pytest.mark.req("S5", "S9", "T1.5")

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
