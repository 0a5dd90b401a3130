"""The one table of meter kinds. Nothing else in the service names a kind."""

from __future__ import annotations

from typing import Final

from meterline_aggregate.kinds.count import COUNT
from meterline_aggregate.kinds.kind import Aggregation, Kind, Measured
from meterline_aggregate.kinds.max import MAX
from meterline_aggregate.kinds.sum import SUM
from meterline_aggregate.kinds.unique import UNIQUE

KINDS: Final[dict[int, Kind]] = {kind.aggregation: kind for kind in (COUNT, SUM, MAX, UNIQUE)}


def find(number: int) -> Kind | None:
    """The kind that a number of the API or of a table stands for; None: only a newer release knows it."""
    return KINDS.get(number)


def kind_of(aggregation: Aggregation) -> Kind:
    return KINDS[aggregation]


def numbers() -> list[int]:
    """Those that stand for kinds here."""
    return sorted(KINDS)


def names_of(measured: Measured) -> str:
    """The kinds that measure this, as a refusal lists them."""
    names = [kind.aggregation.name for kind in KINDS.values() if kind.measured is measured]
    return f"the aggregation{'s' if len(names) > 1 else ''} {' and '.join(names)}"
