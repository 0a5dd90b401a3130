"""Delivery settings: how a meter's usage is sent to the billing provider. They are not part of its price."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """One version of the settings of one meter in a plan.

    See `Rule` for `event_name` and `scale`. `put_by` names the caller.
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
    """The current settings of a meter, from all versions of its plan."""
    mine = (known for known in deliveries if known.meter == meter)
    return max(mine, key=lambda known: known.version, default=None)


def taken_by(
    event_name: str, meter: str, deliveries: Iterable[Delivery], priced: Collection[str]
) -> str | None:
    """The other meter of the plan that uses or used this event name; sums under it could not be
    distinguished.

    `priced`: the meters with a price in the plan; other meters' prices were withdrawn before anything was
    sent.
    """
    if not event_name:
        return None
    owners = {known.meter for known in deliveries if known.event_name == event_name}
    return min((owners - {meter}) & set(priced), default=None)
