"""Divides an amount into parts that add up to it exactly, in minor units."""

from collections.abc import Sequence

from meterline_publisher.billing.money import Exact, Money, fraction_of


def allocate(total: Money, weights: Sequence[Exact]) -> list[Money]:
    """Divide `total` in proportion to `weights` by largest remainder; of equal remainders the earlier part
    wins.

    The parts add up to the total, each is within one minor unit of its exact share, and the parts of a
    negative total are those of the positive one, negated. Negative weights, or only zeros, are a
    `ValueError`; a float is a `TypeError`.
    """
    shares = [fraction_of(weight) for weight in weights]
    whole = sum(shares)
    if not whole or min(shares) < 0:
        raise ValueError("weights must not be negative, nor all zero")
    units = abs(total.minor)
    floors, remainders = zip(*(divmod(units * share, whole) for share in shares), strict=True)
    gains = sorted(range(len(shares)), key=lambda index: -remainders[index])[: units - sum(floors)]
    parts = list(floors)
    for index in gains:
        parts[index] += 1
    sign = -1 if total.minor < 0 else 1
    return [Money(total.currency, sign * part) for part in parts]
