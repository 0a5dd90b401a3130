"""When billing periods end: pure arithmetic on instants (unix seconds).

Stripe's monthly periods are anniversaries of the anchor in UTC; a day that a month lacks falls on its last
day, and the anchor's own day comes back afterwards. Explicit boundaries, an extension of the double, take
precedence as far as they reach; after the last of them the anniversaries count from it.
"""

import calendar
from bisect import bisect_right
from datetime import UTC, datetime
from itertools import pairwise

BOUNDARIES_KEY = "meterline_period_boundaries"
MAX_DIGITS = 10


def add_months(anchor: int, months: int) -> int:
    """The instant `months` calendar months after `anchor`, in UTC."""
    start = datetime.fromtimestamp(anchor, UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return int(start.replace(year=year, month=month + 1, day=day).timestamp())


def next_anniversary(anchor: int, after: int) -> int:
    """The first of `anchor`, `anchor` + 1 month, + 2 months... that is later than `after`."""
    if anchor > after:
        return anchor
    first, last = datetime.fromtimestamp(anchor, UTC), datetime.fromtimestamp(after, UTC)
    months = (last.year - first.year) * 12 + last.month - first.month
    found = add_months(anchor, months)
    return found if found > after else add_months(anchor, months + 1)


def next_period_end(anchor: int, boundaries: tuple[int, ...], after: int) -> int:
    """The end of the period that holds `after`."""
    index = bisect_right(boundaries, after)
    if index < len(boundaries):
        return boundaries[index]
    return next_anniversary(boundaries[-1] if boundaries else anchor, after)


def parse_boundaries(text: str) -> tuple[int, ...]:
    """Comma-separated unix seconds, strictly increasing; ValueError if they are not."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and len(part) <= MAX_DIGITS for part in parts):
        raise ValueError("period boundaries are unix seconds")
    found = tuple(int(part) for part in parts)
    if any(later <= earlier for earlier, later in pairwise(found)):
        raise ValueError("period boundaries must increase")
    return found
