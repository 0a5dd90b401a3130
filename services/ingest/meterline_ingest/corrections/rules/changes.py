"""Corrections: the row that is retracted, the row that replaces it, and how a change makes the latter.

A correction never changes accepted rows. It adds a pair of rows: the event as it was, which no longer counts,
and the event as it should be, which is missing for a retraction. Sums over all rows, with retracted rows
counted negatively, are the sums over the events that remain.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np

from meterline_ingest.capture.rules.validation import Checked
from meterline_ingest.event.columns import UUID_DTYPE, Columns, Pairs, QuantityColumn, interned
from meterline_ingest.event.content import Content
from meterline_ingest.event_types.rules.enrichment import UNENRICHED
from meterline_ingest.event_types.rules.types import EventType

MAX_IDS: Final = 10_000
MAX_FAILURES: Final = 1_000
# Changes of one kind in an amendment: more than any type has.
MAX_CHANGES: Final = 64
# Retracted rows and rows that replace them.
MAX_MESSAGE_ROWS: Final = 5_000

DIMENSIONS: Final = "dimensions"
QUANTITIES: Final = "quantities"
PROPERTIES: Final = "properties"


class Kind(IntEnum):
    """Stored as these numbers; the API has the same."""

    AMENDED = 1
    RETRACTED = 2


@dataclass(frozen=True, slots=True)
class SignedRow:
    """A row of a correction: a retracted one, with the batch that it came in, or one that counts.

    revision: the number of the correction among those of the event
    """

    event_id: uuid.UUID
    content: Content
    revision: int
    retracted_from: uuid.UUID | None = None

    @property
    def retracted(self) -> bool:
        return self.retracted_from is not None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an event could not be corrected: `field` breaks the rule `message`; `reason` is a stable code."""

    event_id: str
    reason: str
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What an amendment sets, by name, and what it removes, as (kind, name). Nothing else changes.

    quantities: (units, scale), with value = units / 10^scale
    """

    time_us: int | None = None
    subject: str | None = None
    dimensions: Mapping[str, str] = field(default_factory=dict)
    quantities: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    removed: frozenset[tuple[str, str]] = frozenset()

    @property
    def is_empty(self) -> bool:
        return self == Changes()

    @property
    def touched(self) -> set[str]:
        """Names of the changed dimensions and properties; no name is both in one type."""
        taken_out = {name for kind, name in self.removed if kind != QUANTITIES}
        return taken_out | self.dimensions.keys() | self.properties.keys()


@dataclass(slots=True)
class Draft:
    """An event as it should be, not yet judged. `properties` include sensitive ones."""

    event_id: uuid.UUID
    event_type: str
    subject: str
    time_us: int
    dimensions: dict[str, str]
    quantities: dict[str, tuple[int, int]]
    properties: dict[str, str]


def draft(
    event_id: uuid.UUID,
    content: Content,
    secrets: Mapping[str, str],
    definition: EventType | None,
    changes: Changes,
) -> Draft:
    """`content`, with its sensitive properties, and the changes applied to it."""
    quantities = () if definition is None else definition.quantities
    found = Draft(
        event_id,
        content.event_type,
        content.subject if changes.subject is None else changes.subject,
        content.time_us if changes.time_us is None else changes.time_us,
        dict(content.dimensions),
        {
            quantity.name: (units, quantity.scale)
            for quantity, units in zip(quantities, content.units, strict=False)
            if units is not None
        },
        {**content.properties, **secrets},
    )
    if definition is not None:
        _drop_stale(found, definition, changes)
    by_kind: dict[str, dict[str, str] | dict[str, tuple[int, int]]] = {
        DIMENSIONS: found.dimensions,
        QUANTITIES: found.quantities,
        PROPERTIES: found.properties,
    }
    for kind, name in changes.removed:
        by_kind[kind].pop(name, None)
    found.dimensions.update(changes.dimensions)
    found.quantities.update(changes.quantities)
    found.properties.update(changes.properties)
    return found


def _drop_stale(found: Draft, definition: EventType, changes: Changes) -> None:
    """Drops what the catalogue returned for the old value of a key: it does not apply to the new one."""
    touched = changes.touched
    for enrichment in definition.enrichments:
        if enrichment.key in touched:
            for attribute in enrichment.attributes:
                found.dimensions.pop(attribute.target, None)
                found.properties.pop(attribute.target, None)


def to_columns(tenant: str, drafts: Sequence[Draft]) -> Columns:
    """The drafts in the form in which capture judges events."""
    types, type_index = interned([each.event_type for each in drafts])
    subjects, subject_index = interned([each.subject for each in drafts])
    dimensions, dimension_index = interned([_pairs(each.dimensions) for each in drafts])
    properties, property_index = interned([_pairs(each.properties) for each in drafts])
    return Columns(
        [tenant],
        np.zeros(len(drafts), np.uint32),
        types,
        type_index,
        subjects,
        subject_index,
        dimensions,
        dimension_index,
        properties,
        property_index,
        np.frombuffer(b"".join(each.event_id.bytes for each in drafts), UUID_DTYPE),
        None,
        np.array([each.time_us for each in drafts], np.int64),
        _quantities(drafts),
    )


def _quantities(drafts: Sequence[Draft]) -> list[QuantityColumn]:
    columns: dict[tuple[str, int], QuantityColumn] = {}
    for row, each in enumerate(drafts):
        for name, (units, scale) in each.quantities.items():
            column = columns.get((name, scale))
            if column is None:
                empty = np.zeros(len(drafts), np.int64), np.zeros(len(drafts), np.bool_)
                column = columns[name, scale] = QuantityColumn(name, scale, *empty)
            assert column.present is not None
            column.units[row] = units
            column.present[row] = True
    return list(columns.values())


def judged(checked: Checked, row: int, before: Content) -> tuple[Content, dict[str, str]]:
    """A row without a problem, as it is stored, and its sensitive properties.

    Flags about the origin of the event are kept.
    """
    series = checked.series[checked.series_index[row]]
    units = [
        None if slot is None or not (slot.present is None or slot.present[row]) else int(slot.units[row])
        for slot in checked.slots
    ]
    variant = checked.fields.variants.get(int(checked.fields.index[row]))
    kept = tuple(flag for flag in before.flags if flag != UNENRICHED)
    content = Content(
        series.event_type,
        checked.columns.subjects[checked.columns.subject_index[row]],
        int(checked.columns.times_us[row]),
        dict(series.dimensions),
        tuple(units),
        {} if variant is None else variant.properties,
        () if variant is None else tuple(sorted(variant.sensitive)),
        kept if variant is None else (*kept, *variant.flags),
        () if variant is None else tuple(variant.sources),
    )
    return content, {} if variant is None else variant.sensitive


def _pairs(values: Mapping[str, str]) -> Pairs:
    return tuple(sorted(values.items()))
