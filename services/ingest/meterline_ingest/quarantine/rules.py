"""States of rejected events, their selection, and which of their values may be shown."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from meterline import decimals
from meterline.errors import InvalidArgumentError

from meterline_ingest.event.outcomes import Stage
from meterline_ingest.event_types.rules.types import EventType

MAX_IDS: Final = 1_000


class State(StrEnum):
    """Stored as these words."""

    WAITING = "waiting"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class QuarantineFilter:
    """Empty and None match everything. Times of first receipt are half-open, [start, end).

    Raises InvalidArgumentError for texts that no entry can have.
    """

    event_type: str = ""
    reason: str = ""
    field: str = ""
    source: str = ""
    stage: Stage | None = None
    start: datetime | None = None
    end: datetime | None = None
    ids: Sequence[uuid.UUID] | None = None

    def __post_init__(self) -> None:
        for name in ("event_type", "reason", "field", "source"):
            if "\0" in getattr(self, name):
                raise InvalidArgumentError(f"filter.{name}", "no NUL")


def hidden(
    definition: EventType | None,
    dimensions: Iterable[str],
    quantities: Mapping[str, str],
    properties: Iterable[str],
) -> list[tuple[str, str]]:
    """(map, name) of the values that may be sensitive: all but those that the type declares not sensitive.

    An event may be rejected because values are swapped: an address may be under the name of a region.
    """
    shown_dimensions = definition.dimensions_by_name if definition else {}
    shown_properties = definition.properties_by_name.keys() - definition.sensitive if definition else set()
    shown_quantities = {each.name for each in definition.quantities} if definition else set()
    return [
        *(("dimensions", name) for name in dimensions if name not in shown_dimensions),
        *(
            ("quantities", name)
            for name, text in quantities.items()
            if name not in shown_quantities or not _is_decimal(text)
        ),
        *(("properties", name) for name in properties if name not in shown_properties),
    ]


def _is_decimal(text: str) -> bool:
    try:
        decimals.parse_units(text)
    except decimals.DecimalError:
        return False
    return True
