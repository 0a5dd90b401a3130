"""Totals of an invoice."""

from collections.abc import Iterable
from typing import Protocol

from meterline_publisher.billing.money import Currency, Money


class Line(Protocol):
    """Anything with a rounded amount for an invoice."""

    @property
    def money(self) -> Money: ...


def totals(lines: Iterable[Line]) -> dict[Currency, Money]:
    """Sum rounded lines for each currency.

    Sums the rounded amounts that customers see on the lines, not the exact ones.
    """
    sums: dict[Currency, Money] = {}
    for line in lines:
        money = line.money
        sums[money.currency] = sums.get(money.currency, Money(money.currency, 0)) + money
    return sums
