"""Totals of an invoice."""

from collections.abc import Iterable
from typing import Protocol

from meterline_publisher.billing.money import Currency, Money


class Line(Protocol):
    """Anything that puts a rounded amount on an invoice."""

    @property
    def money(self) -> Money: ...


def totals(lines: Iterable[Line]) -> dict[Currency, Money]:
    """Sum rounded lines for each currency.

    What is added up is what the customer sees on the lines, never the exact amounts behind them.
    """
    sums: dict[Currency, Money] = {}
    for line in lines:
        money = line.money
        sums[money.currency] = sums.get(money.currency, Money(money.currency, 0)) + money
    return sums
