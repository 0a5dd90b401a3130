"""Expected amounts of prices, in exact fractions: the oracle for invoices."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any

from hypothesis import strategies as st

QUANTITIES = st.one_of(st.integers(0, 30), st.integers(0, 10**15 - 1))
# Stripe's amounts are in minor units with up to 12 decimal places.
AMOUNTS = st.decimals(0, 10_000, places=12).map(lambda amount: amount.normalize())


@dataclass(frozen=True)
class Tier:
    up_to: int | None
    unit: Decimal
    flat: Decimal

    def params(self) -> dict[str, Any]:
        return {
            "up_to": "inf" if self.up_to is None else self.up_to,
            "unit_amount_decimal": plain(self.unit),
            "flat_amount_decimal": plain(self.flat),
        }


@dataclass(frozen=True)
class Terms:
    """A price, independent of Stripe's notation."""

    model: str
    unit: Decimal = Decimal(0)
    size: int = 1
    rounding: str = "up"
    tiers: tuple[Tier, ...] = ()

    def params(self) -> dict[str, Any]:
        if self.tiers:
            tiers = [tier.params() for tier in self.tiers]
            return {"billing_scheme": "tiered", "tiers_mode": self.model, "tiers": tiers}
        packages = {"transform_quantity": {"divide_by": self.size, "round": self.rounding}}
        return {"unit_amount_decimal": plain(self.unit), **(packages if self.model == "package" else {})}

    def owed(self, quantity: int) -> int:
        """Minor units, rounded half up once."""
        return floor(self._exact(quantity) + Fraction(1, 2))

    def _exact(self, quantity: int) -> Fraction:
        if self.model == "package":
            packages = Fraction(quantity, self.size)
            return Fraction(self.unit) * (ceil(packages) if self.rounding == "up" else floor(packages))
        if self.model == "volume":
            return self._volume(quantity)
        if self.model == "graduated":
            return self._graduated(quantity)
        return quantity * Fraction(self.unit)

    def _volume(self, quantity: int) -> Fraction:
        (tier, *_) = [tier for tier in self.tiers if tier.up_to is None or tier.up_to >= quantity]
        return Fraction(tier.flat) + quantity * Fraction(tier.unit)

    def _graduated(self, quantity: int) -> Fraction:
        owed, floors = Fraction(0), [0, *(tier.up_to for tier in self.tiers if tier.up_to is not None)]
        for tier, below in zip(self.tiers, floors, strict=True):
            if quantity > below or below == 0:
                top = quantity if tier.up_to is None else min(tier.up_to, quantity)
                owed += Fraction(tier.flat) + (top - below) * Fraction(tier.unit)
        return owed


def plain(amount: Decimal) -> str:
    return f"{amount:f}"


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(st.one_of(st.integers(1, 30), st.integers(1, 10**15)), max_size=4)))
    return tuple(Tier(bound, draw(AMOUNTS), draw(AMOUNTS)) for bound in [*bounds, None])


TERMS = st.one_of(
    st.builds(Terms, model=st.just("per_unit"), unit=AMOUNTS),
    st.builds(
        Terms,
        model=st.just("package"),
        unit=AMOUNTS,
        size=st.integers(1, 1_000),
        rounding=st.sampled_from(["up", "down"]),
    ),
    st.builds(Terms, model=st.sampled_from(["graduated", "volume"]), tiers=tiers()),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Terms], int]:
    """One to four prices, and a quantity, often at the edge of a tier or package."""
    found = draw(st.lists(TERMS, min_size=1, max_size=4))
    bounds = {tier.up_to for terms in found for tier in terms.tiers if tier.up_to is not None}
    sizes = {terms.size for terms in found}
    edges = {edge + step for edge in bounds | sizes for step in (-1, 0, 1) if edge + step < 10**15}
    at_edge = st.sampled_from(sorted(edges))
    return found, draw(st.one_of(at_edge, at_edge, QUANTITIES))
