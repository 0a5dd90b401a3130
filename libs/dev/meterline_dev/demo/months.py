"""Billing months: calendar months of New York."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from meterline_dev.demo.flights import LOCAL


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month of New York."""

    year: int
    month: int

    @property
    def start(self) -> datetime:
        """Its first instant, in UTC."""
        return datetime(self.year, self.month, 1, tzinfo=LOCAL).astimezone(UTC)

    @property
    def first_day(self) -> str:
        """`YYYY-MM-01`."""
        return f"{self.year:04}-{self.month:02}-01"

    @property
    def end(self) -> datetime:
        """The first instant of the month after, in UTC."""
        return self.next.start

    @property
    def next(self) -> Month:
        return Month(self.year + 1, 1) if self.month == 12 else Month(self.year, self.month + 1)

    @property
    def title(self) -> str:
        return f"{self.start.astimezone(LOCAL):%b %Y}"


def month_of(at: datetime) -> Month:
    """The month that an instant lies in."""
    local = at.astimezone(LOCAL)
    return Month(local.year, local.month)


def months(first: datetime, last: datetime) -> list[Month]:
    """All months from that of `first` to that of `last`."""
    found = [month_of(first)]
    while found[-1] < month_of(last):
        found.append(found[-1].next)
    return found
