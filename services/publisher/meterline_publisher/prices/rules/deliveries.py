"""Delivery settings: how the usage of a meter reaches the billing provider. They are no part of its price."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """One version of the settings of one meter of a plan.

    `event_name` and `scale` are those of `Rule`. `put_by` names the caller.
    """

    plan: str
    meter: str
    version: int
    event_name: str
    scale: int
    put_by: str
    put_at: datetime

    @property
    def settings(self) -> tuple[str, int]:
        return self.event_name, self.scale


def last_of(deliveries: Iterable[Delivery], meter: str) -> Delivery | None:
    """The settings that hold for a meter, out of all versions of its plan."""
    mine = (known for known in deliveries if known.meter == meter)
    return max(mine, key=lambda known: known.version, default=None)


def taken_by(
    event_name: str, meter: str, deliveries: Iterable[Delivery], priced: Collection[str]
) -> str | None:
    """Which other meter of the plan is sent, or was, under the name: their usage could not be told apart.

    `priced`: the meters that the plan has a price of; others were withdrawn before anything was sent of them.
    """
    if not event_name:
        return None
    owners = {known.meter for known in deliveries if known.event_name == event_name}
    return min((owners - {meter}) & set(priced), default=None)
