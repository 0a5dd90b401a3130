"""The table of meter kinds. Nothing else in the service names a kind."""

from __future__ import annotations

from typing import Final

from meterline_aggregate.kinds.count import COUNT
from meterline_aggregate.kinds.kind import Aggregation, Kind, Measured
from meterline_aggregate.kinds.max import MAX
from meterline_aggregate.kinds.sum import SUM
from meterline_aggregate.kinds.unique import UNIQUE

KINDS: Final[dict[int, Kind]] = {kind.aggregation: kind for kind in (COUNT, SUM, MAX, UNIQUE)}


def find(number: int) -> Kind | None:
    """The kind with this number in the API and in tables; None for kinds of newer releases."""
    return KINDS.get(number)


def kind_of(aggregation: Aggregation) -> Kind:
    return KINDS[aggregation]


def numbers() -> list[int]:
    """The numbers of all kinds known here."""
    return sorted(KINDS)


def names_of(measured: Measured) -> str:
    """The kinds that measure `measured`, as refusals list them."""
    names = [kind.aggregation.name for kind in KINDS.values() if kind.measured is measured]
    return f"the aggregation{'s' if len(names) > 1 else ''} {' and '.join(names)}"
