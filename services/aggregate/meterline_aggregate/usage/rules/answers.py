"""Types of answers: windows, and contributions of batches to them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Window:
    """`dimensions` is empty for the total, group 0; `rest`: the group that counts combinations without their
    own.

    Only for months of the total: `traceparent` of a change that is not published yet, and whether the month
    is being rebuilt.
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
    """`value` is None where the batch has no value of its own: it depends on other batches, or is empty."""

    meter: str
    start_us: int
    batch_id: uuid.UUID
    event_count: int
    value: Decimal | None
