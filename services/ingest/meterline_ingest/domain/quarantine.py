"""What becomes of events that were rejected, and what may be shown of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from meterline.errors import InvalidArgumentError

from meterline_ingest.domain import decimals
from meterline_ingest.domain.event_types import EventType
from meterline_ingest.domain.outcomes import Stage

MAX_NAME: Final = 64
MAX_FIELD: Final = 128
MAX_IDS: Final = 1_000
# Bytes of one event. What can be accepted is smaller, but for many properties of the longest texts at once.
MAX_PAYLOAD: Final = 64 << 10
# Bytes of all events of one call, which has 4 MiB itself at most. Columns say once what many rows share.
MAX_KEPT_OF_CALL: Final = 8 << 20
# Bytes of one tenant's in one flush: by so much a flush under way may exceed what the tenant may keep.
MAX_KEPT_OF_FLUSH: Final = 16 << 20
# What an entry counts beside its payload, for its row and its places in the indexes; SQL says the same
# (`quarantine_bytes`).
ENTRY_BYTES: Final = 512


class State(StrEnum):
    """Stored as these words."""

    WAITING = "waiting"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Held:
    """What is kept of a tenant's: entries that wait, and bytes of all, settled ones too."""

    waiting: int = 0
    bytes: int = 0

    def __sub__(self, other: Held) -> Held:
        return Held(self.waiting - other.waiting, self.bytes - other.bytes)

    def fits(self, more: Held) -> bool:
        """Whether there is room for `more` where this much is left."""
        return more.waiting <= self.waiting and more.bytes <= self.bytes


@dataclass(frozen=True, slots=True)
class QuarantineFilter:
    """Empty and None let everything through. Times of first receipt are half-open, [start, end).

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


def cut(text: str, most: int) -> str:
    """What fits a column of texts: it holds no NUL, and is for finding, not for reading back."""
    return text[:most].replace("\0", "\N{REPLACEMENT CHARACTER}")


def hidden(
    definition: EventType | None,
    dimensions: Iterable[str],
    quantities: Mapping[str, str],
    properties: Iterable[str],
) -> list[tuple[str, str]]:
    """(map, name) of the values that may be sensitive: all but those that the type declares as harmless.

    What is in the wrong place was rejected for it, and may be an address under the name of a region.
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
        decimals.parse(text)
    except decimals.DecimalError:
        return False
    return True
