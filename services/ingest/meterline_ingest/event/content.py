"""The content of one event, as it is stored: in a row of `events` and its details, or in a correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meterline_ingest.event.bounds import MAX_QUANTITIES
from meterline_ingest.event.series import SeriesKey

Units = tuple[int | None, ...]
"""Fixed point, in the order of the type's quantities; None where absent."""


@dataclass(frozen=True, slots=True)
class Content:
    """
    time_us: microseconds since the Unix epoch
    properties: without sensitive ones
    sealed: names of the sensitive properties
    sources: entries of the catalogue that were used
    """

    event_type: str
    subject: str
    time_us: int
    dimensions: Mapping[str, str]
    units: Units
    properties: Mapping[str, str] = field(default_factory=dict)
    sealed: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def series(self, tenant_id: int) -> SeriesKey:
        return SeriesKey(tenant_id, self.event_type, tuple(sorted(self.dimensions.items())))

    def is_same_content_as(self, other: Content) -> bool:
        """Whether both are equal, without sensitive values and the origins of values."""
        mine = (self.event_type, self.subject, self.time_us, self.dimensions, self.units, self.properties)
        theirs = (other.event_type, other.subject, other.time_us, other.dimensions, other.units)
        return mine == (*theirs, other.properties)

    def to_json(self) -> dict[str, Any]:
        """Exact: numbers are integers. Empty fields are left out."""
        stated: dict[str, Any] = {
            "type": self.event_type,
            "subject": self.subject,
            "time_us": self.time_us,
            "dimensions": dict(self.dimensions),
            "units": list(self.units),
        }
        more = {
            "properties": dict(self.properties),
            "sealed": list(self.sealed),
            "flags": list(self.flags),
            "sources": list(self.sources),
        }
        return stated | {name: value for name, value in more.items() if value}

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> Content:
        return cls(
            stated["type"],
            stated["subject"],
            stated["time_us"],
            stated["dimensions"],
            padded(stated["units"]),
            stated.get("properties", {}),
            tuple(stated.get("sealed", ())),
            tuple(stated.get("flags", ())),
            tuple(stated.get("sources", ())),
        )


def padded(units: Sequence[int | None]) -> Units:
    """Units with None added, one for each column of storage."""
    return (*units, *[None] * (MAX_QUANTITIES - len(units)))
