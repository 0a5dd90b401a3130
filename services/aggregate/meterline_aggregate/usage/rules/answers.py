"""What usage is answered as: windows, and what a batch added to them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Window:
    """`dimensions` is empty for the total, group 0; `rest`: the group of all combinations without their own.

    Of totals of months only: `traceparent` of a change that is not published yet, and whether the value is
    being found anew.
    """

    start_us: int
    group_id: int
    dimensions: dict[str, str]
    rest: bool
    value: Decimal
    event_count: int
    revision: int
    aggregation: int
    traceparent: str = ""
    rebuilding: bool = False


@dataclass(frozen=True, slots=True)
class Contribution:
    """`value` is None where a batch has none of its own: what it added depends on others, or is nothing."""

    meter: str
    start_us: int
    batch_id: uuid.UUID
    event_count: int
    value: Decimal | None
