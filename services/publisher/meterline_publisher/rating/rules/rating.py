"""Rating: computes one line from a price and a quantity, with the steps that add up to its amount.

All steps are exact; the line is rounded once, by its price's rounding, to the currency's minor unit. A
quantity is the total of a line: rating parts of it separately and adding them gives another amount.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import assert_never

from meterline.decimals import to_text

from meterline_publisher.billing.money import Currency, Money, check_size, exact_decimal
from meterline_publisher.prices.rules.prices import (
    ZERO,
    Flat,
    Graduated,
    Model,
    Package,
    PackageRounding,
    Percentage,
    PerUnit,
    Price,
    Tier,
    Volume,
)

ONE = Decimal(1)


class QuantityError(ValueError):
    """The quantity is negative, not finite, or has too many digits."""


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a line: `quantity` x `unit_amount`, in major units of the line's currency."""

    description: str
    quantity: Decimal
    unit_amount: Decimal

    @property
    def amount(self) -> Fraction:
        """The exact amount of this step; the amounts of all steps add up to the line's."""
        return Fraction(self.quantity) * Fraction(self.unit_amount)


@dataclass(frozen=True, slots=True)
class RatedLine:
    """The result of rating: the billed amount (`money`), the unrounded one (`exact`), and its steps."""

    quantity: Decimal
    exact: Fraction
    money: Money
    steps: tuple[Step, ...]

    @property
    def currency(self) -> Currency:
        return self.money.currency

    @property
    def amount(self) -> Decimal:
        """The rounded amount in major units, with the currency's decimals."""
        return self.money.amount

    @property
    def minor(self) -> int:
        """The rounded amount in minor units."""
        return self.money.minor


def rate(price: Price, quantity: Decimal | int) -> RatedLine:
    """Rate the total quantity of one line.

    A float is a `TypeError`. A negative quantity is a `QuantityError`: tiers and packages are undefined below
    zero, so a correction is rated as the difference of two lines.
    """
    total = _checked(quantity)
    steps = [*_usage_steps(price.model, total)]
    if price.fixed:
        steps.append(Step("fixed fee", ONE, price.fixed))
    steps += _bound_steps(price, _sum(steps))
    exact = _sum(steps)
    return RatedLine(total, exact, Money.rounded(exact, price.currency, price.rounding), tuple(steps))


def _checked(quantity: Decimal | int) -> Decimal:
    # Checked at run time, since a float or a bool would otherwise be converted silently.
    if isinstance(quantity, bool) or not isinstance(quantity, Decimal | int):
        raise TypeError(f"a quantity is a Decimal or an int, not {type(quantity).__name__}")
    total = Decimal(quantity)
    try:
        check_size(total)
    except ValueError as error:
        raise QuantityError(f"quantity: {error}") from error
    if total < 0:
        raise QuantityError(f"quantity {total} is negative")
    return Decimal(to_text(total))


def _sum(steps: list[Step]) -> Fraction:
    return sum((step.amount for step in steps), Fraction(0))


def _usage_steps(model: Model, quantity: Decimal) -> Iterator[Step]:
    match model:
        case Flat(amount):
            yield Step("flat amount", ONE, amount)
        case PerUnit(unit, free):
            yield Step(_beyond("units", free), _charged(quantity, free), unit)
        case Percentage(percent, free):
            what = _beyond(f"{to_text(percent)} percent", free)
            yield Step(what, _charged(quantity, free), exact_decimal(Fraction(percent) / 100))
        case Package(size, amount, free, rounding):
            what = _beyond(f"packages of {to_text(size)}, rounded {rounding.value}", free)
            yield Step(what, _packages(_charged(quantity, free), size, rounding), amount)
        case Graduated():
            yield from _graduated_steps(model, quantity)
        case Volume():
            yield from _volume_steps(model, quantity)
        case _:
            assert_never(model)


def _charged(quantity: Decimal, free: Decimal) -> Decimal:
    return exact_decimal(max(Fraction(quantity) - Fraction(free), Fraction(0)))


def _beyond(what: str, free: Decimal) -> str:
    return f"{what}, beyond {to_text(free)} free" if free else what


def _packages(quantity: Decimal, size: Decimal, rounding: PackageRounding) -> Decimal:
    full, rest = divmod(Fraction(quantity), Fraction(size))
    return Decimal(full + 1 if rest and rounding is PackageRounding.UP else full)


def _graduated_steps(model: Graduated, quantity: Decimal) -> Iterator[Step]:
    lower = ZERO
    for number, tier in enumerate(model.tiers, 1):
        # A quantity above a tier's lower edge enters the tier; a quantity of 0 enters the first one too.
        if number > 1 and quantity <= lower:
            return
        upper = quantity if tier.up_to is None else min(quantity, tier.up_to)
        inside = exact_decimal(Fraction(upper) - Fraction(lower))
        yield from _tier_steps(number, tier, inside, flat_due=quantity > 0 or model.flat_at_zero)
        lower = upper


def _volume_steps(model: Volume, quantity: Decimal) -> Iterator[Step]:
    for number, tier in enumerate(model.tiers, 1):
        if tier.up_to is None or quantity <= tier.up_to:
            yield from _tier_steps(number, tier, quantity, flat_due=quantity > 0 or model.flat_at_zero)
            return


def _tier_steps(number: int, tier: Tier, quantity: Decimal, *, flat_due: bool) -> Iterator[Step]:
    end = "without end" if tier.up_to is None else f"up to {to_text(tier.up_to)}"
    yield Step(f"tier {number}, {end}", quantity, tier.unit)
    if tier.flat and flat_due:
        yield Step(f"flat of tier {number}", ONE, tier.flat)


def _bound_steps(price: Price, exact: Fraction) -> Iterator[Step]:
    if price.minimum is not None and (raised := Fraction(price.minimum) - exact) > 0:
        yield Step(f"raised to the minimum of {to_text(price.minimum)}", ONE, exact_decimal(raised))
        exact += raised
    if price.maximum is not None and (lowered := Fraction(price.maximum) - exact) < 0:
        yield Step(f"lowered to the maximum of {to_text(price.maximum)}", ONE, exact_decimal(lowered))
