"""Prorates amounts for a part of a period between two instants."""

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from meterline.calendar import Period

from meterline_publisher.billing.money import Currency, Exact, Money, Rounding, fraction_of


@dataclass(frozen=True, slots=True)
class ProratedLine:
    """A line for a `share` (0 to 1) of a period: `exact` in major units, and `money` once rounded."""

    share: Fraction
    exact: Fraction
    money: Money


@dataclass(frozen=True, slots=True)
class Change:
    """The two lines of a change of price within a period, each rounded on its own."""

    credit: ProratedLine
    charge: ProratedLine

    @property
    def net(self) -> Money:
        return self.credit.money + self.charge.money


def prorate(
    period: Period,
    since: datetime,
    until: datetime,
    amount: Exact,
    currency: Currency,
    rounding: Rounding = Rounding.HALF_UP,
) -> ProratedLine:
    """Charge the part [since, until) of an `amount` (major units) that covers the whole period.

    Instants outside the period are a `ValueError`, a float amount is a `TypeError`.
    """
    share = period.share(since, until)
    exact = fraction_of(amount) * share
    return ProratedLine(share, exact, Money.rounded(exact, currency, rounding))


def change(
    period: Period,
    change_at: datetime,
    old: Exact,
    new: Exact,
    currency: Currency,
    rounding: Rounding = Rounding.HALF_UP,
) -> Change:
    """Replace the amount `old`, already charged for the period, by `new` from `change_at` on.

    The rest of the period is credited at the old amount and charged at the new one. A `change_at` outside the
    period is a `ValueError`; at the period's end both lines are zero.
    """
    credit = prorate(period, change_at, period.end, -fraction_of(old), currency, rounding)
    charge = prorate(period, change_at, period.end, new, currency, rounding)
    return Change(credit, charge)
