"""A series: one combination of tenant, type and dimensions."""

from __future__ import annotations

from dataclasses import dataclass

from meterline_ingest.event.columns import DimensionSet


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """One combination of tenant (number), type and dimensions."""

    tenant_id: int
    event_type: str
    dimensions: DimensionSet
