"""How much a tenant may report: limits, their origins, and the block that a replica takes of a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from functools import cached_property
from typing import Final

from meterline.errors import InvalidArgumentError

from meterline_ingest.dictionaries.rules import MAX_QUOTA, Quotas

# Levels of buckets are in millionths of an event: a rate times microseconds, exactly.
MILLIONTHS: Final = 1_000_000

MAX_RATE: Final = 1_000_000_000
MAX_WEIGHT: Final = 1_000

# A replica takes this part of a second's events at a time. Ten statements a second then serve a tenant,
# however many calls it makes.
BLOCKS_A_SECOND: Final = 10
# A bound for very fast tenants: at worst the block that a replica holds is taken twice.
MAX_BLOCK: Final = 20_000


@dataclass(frozen=True, slots=True)
class Limits:
    """`events_per_second` 0: no rate is set, and `burst` has no meaning. `max_series`, `max_subjects` 0: as
    many as the service allows each tenant."""

    events_per_second: int = 0
    burst: int = 0
    weight: int = 1
    max_series: int = 0
    max_subjects: int = 0

    @property
    def quotas(self) -> Quotas:
        return Quotas(self.max_series, self.max_subjects)

    @property
    def limited(self) -> bool:
        return self.events_per_second > 0

    @property
    def block(self) -> int:
        """How many events a replica takes at a time."""
        return max(1, min(MAX_BLOCK, self.events_per_second // BLOCKS_A_SECOND))

    def __str__(self) -> str:
        return f"{self.events_per_second} events a second, {self.burst} at once"


NO_LIMITS: Final = Limits()


def wanted(
    events_per_second: int, burst: int, weight: int, max_series: int = 0, max_subjects: int = 0
) -> Limits:
    """The limits of a request, with defaults for missing values. Raises InvalidArgumentError."""
    for name, value, most in (
        ("events_per_second", events_per_second, MAX_RATE),
        ("burst", burst, MAX_RATE),
        ("weight", weight, MAX_WEIGHT),
        ("max_series", max_series, MAX_QUOTA),
        ("max_subjects", max_subjects, MAX_QUOTA),
    ):
        if value > most:
            raise InvalidArgumentError(f"limits.{name}", f"at most {most}")
    if not events_per_second and burst:
        raise InvalidArgumentError("limits.burst", "only with events_per_second")
    return Limits(events_per_second, burst or events_per_second, weight or 1, max_series, max_subjects)


class Origin(IntEnum):
    """Numbers as in the API."""

    NONE = 1
    PLAN = 2
    TENANT = 3


@dataclass(frozen=True)
class LimitBook:
    """All limits: by plan, and by the number of a tenant that has its own."""

    plans: Mapping[str, Limits] = field(default_factory=dict)
    own: Mapping[int, Limits] = field(default_factory=dict)

    @cached_property
    def limited(self) -> bool:
        """Whether any tenant may be limited."""
        return any(each.limited for limits in (self.plans, self.own) for each in limits.values())

    def find(self, tenant_id: int, plan: str) -> tuple[Limits, Origin]:
        own = self.own.get(tenant_id)
        if own is not None:
            return own, Origin.TENANT
        of_plan = self.plans.get(plan)
        return (NO_LIMITS, Origin.NONE) if of_plan is None else (of_plan, Origin.PLAN)


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """The limits of a plan, since when and by whom."""

    plan: str
    limits: Limits
    changed_by: str
    changed_at: datetime
