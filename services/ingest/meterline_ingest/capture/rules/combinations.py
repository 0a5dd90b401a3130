"""Judges dimensions and properties and enriches them, once for each combination instead of each row.

A combination is the part of an event that rows share: tenant, type, dimensions and, if any, properties.
Events with properties of their own are combinations of their own, each judged by itself; all others share
a few.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from meterline_ingest.event.columns import NO_PROPERTIES, Columns, DimensionSet, Int64s, Pairs
from meterline_ingest.event.names import listed, shown
from meterline_ingest.event.outcomes import Kind, Problem, Stage
from meterline_ingest.event.problems import Problems
from meterline_ingest.event.series import SeriesKey
from meterline_ingest.event_types.rules.enrichment import (
    Catalogue,
    Enriched,
    EntryKey,
    enrich,
    entries_needed,
)
from meterline_ingest.event_types.rules.properties import MAX_PROPERTIES, Property, first_problem
from meterline_ingest.event_types.rules.types import MAX_DIMENSIONS, EventType

# Tenant, name of the type, its definition, dimensions and properties as they were sent.
Combination = tuple[int, str, EventType | None, DimensionSet, Pairs]


@dataclass(slots=True)
class Variant:
    """A combination of a type that has details.

    sent_dimensions, sent_properties: as they were received
    properties: as they are stored, without those that are sealed
    sensitive: the properties that are sealed
    sources: entries of the catalogue that were used
    """

    tenant_id: int
    definition: EventType
    sent_dimensions: DimensionSet
    sent_properties: Pairs
    properties: dict[str, str]
    sensitive: dict[str, str]
    sources: list[str]
    flags: tuple[str, ...] = ()


@dataclass(slots=True)
class Fields:
    """The combinations of a batch.

    series: distinct ones; `series_index`: one a row
    variants: by position of the combination; only those of types with details
    index: the combination of each row
    """

    series: list[SeriesKey]
    series_index: Int64s
    index: Int64s
    variants: dict[int, Variant] = field(default_factory=dict)


# The first call makes numpy load modules, which would block the event loop for some 50 ms.
np.unique(np.zeros(0, np.int64))


def distinct(values: Int64s, bound: int) -> tuple[Int64s, Int64s]:
    """As `np.unique(values, return_inverse=True)` for values in [0, bound); sorts only if that is wide."""
    if bound > 4 * len(values) + 1024:
        codes, index = np.unique(values, return_inverse=True)
        return codes, index
    table = np.zeros(bound, np.int64)
    table[values] = 1
    codes = np.flatnonzero(table)
    table[codes] = np.arange(len(codes))
    return codes, table[values]


class Combinations:
    """The combinations that occur in a batch, by their positions in its dictionaries."""

    def __init__(self, columns: Columns, tenant_ids: Int64s, definitions: Sequence[EventType | None]) -> None:
        self._columns = columns
        self._dimension_sets, self._crowded = _bounded(columns.dimension_sets, MAX_DIMENSIONS)
        self._property_sets, self._loaded = _bounded(columns.property_sets, MAX_PROPERTIES)
        self._tenant_ids = tenant_ids.tolist()
        self._definitions = definitions
        sizes = [len(columns.types), len(columns.dimension_sets)]
        keys = columns.tenant_index.astype(np.int64)
        keys = (keys * sizes[0] + columns.type_index) * sizes[1] + columns.dimension_index
        if columns.property_sets == NO_PROPERTIES:
            sizes.append(1)
        else:
            sizes.append(len(columns.property_sets))
            keys = keys * sizes[2] + columns.property_index
        codes, self.index = distinct(keys, len(columns.tenants) * sizes[0] * sizes[1] * sizes[2])
        rest, self._properties = np.divmod(codes, sizes[2])
        rest, self._sets = np.divmod(rest, sizes[1])
        self._tenants, self._types = np.divmod(rest, sizes[0])

    def __iter__(self) -> Iterator[Combination]:
        return map(self.at, range(len(self)))

    def entries_needed(self) -> set[EntryKey]:
        """Entries of the catalogue that the batch is enriched from."""
        if not any(each and each.enrichments for each in self._definitions):
            return set()
        return {
            entry
            for tenant_id, _, definition, dimensions, properties in self
            if definition is not None and definition.enrichments
            for entry in entries_needed(tenant_id, definition.enrichments, dict(dimensions + properties))
        }

    def check(self, catalogue: Catalogue, problems: Problems) -> Fields:
        """Judges and enriches each combination once."""
        series: dict[SeriesKey, int] = {}
        series_of: list[int] = []
        wrong: dict[int, Problem] = {}
        fields = Fields([], self.index, self.index)
        for position, (tenant_id, name, definition, dimensions, properties) in enumerate(self):
            problem = self._oversize(position) if self._crowded or self._loaded else None
            if problem is None and definition is not None:
                if definition.has_details or properties:
                    found, dimensions, problem = _enriched(
                        tenant_id, definition, dimensions, properties, catalogue
                    )
                    if definition.has_details:
                        fields.variants[position] = found
                else:
                    problem = _dimension_problem(dimensions, definition)
            if problem is not None:
                wrong[position] = problem
            key = SeriesKey(tenant_id, name, dimensions)
            series_of.append(series.setdefault(key, len(series)))
        self._flag(wrong, problems)
        fields.series = list(series)
        if len(series) < len(series_of):
            fields.series_index = np.array(series_of)[self.index]
        return fields

    def _flag(self, wrong: Mapping[int, Problem], problems: Problems) -> None:
        if not wrong:
            return
        bad = np.zeros(len(self), np.bool_)
        bad[list(wrong)] = True
        rows = np.flatnonzero(bad[self.index])
        for row, position in zip(rows.tolist(), self.index[rows].tolist(), strict=True):
            problems.flag([row], wrong[position])

    def at(self, position: int) -> Combination:
        columns = self._columns
        type_at = int(self._types[position])
        return (
            self._tenant_ids[int(self._tenants[position])],
            columns.types[type_at],
            self._definitions[type_at],
            self._dimension_sets[int(self._sets[position])],
            self._property_sets[int(self._properties[position])],
        )

    def _oversize(self, position: int) -> Problem | None:
        if int(self._sets[position]) in self._crowded:
            rule = f"at most {MAX_DIMENSIONS}"
            return Problem(Kind.REJECTED, "TOO_MANY_DIMENSIONS", "dimensions", rule)
        if int(self._properties[position]) in self._loaded:
            rule = f"at most {MAX_PROPERTIES}"
            return Problem(Kind.REJECTED, "TOO_MANY_PROPERTIES", "properties", rule)
        return None

    def __len__(self) -> int:
        return len(self._types)


def _bounded(sets: Sequence[Pairs], most: int) -> tuple[Sequence[Pairs], set[int]]:
    """The sets, with empty ones in place of those that are too large for any type, and where these are.

    A set is judged once for each combination that has it, and callers choose both numbers.
    """
    large = {at for at, pairs in enumerate(sets) if len(pairs) > most}
    if not large:
        return sets, large
    return [() if at in large else pairs for at, pairs in enumerate(sets)], large


def _enriched(
    tenant_id: int, definition: EventType, dimensions: DimensionSet, properties: Pairs, catalogue: Catalogue
) -> tuple[Variant, DimensionSet, Problem | None]:
    """The enriched combination, its dimensions after enrichment, and its first problem."""
    result = enrich(tenant_id, definition.enrichments, dict(dimensions + properties), catalogue)
    kept, declared = dict(properties), definition.properties_by_name
    if result.added:
        added = {name: value for name, value in result.added.items() if name not in declared}
        dimensions_now = tuple(sorted((dict(dimensions) | added).items()))
        kept |= {name: value for name, value in result.added.items() if name in declared}
    else:
        dimensions_now = dimensions
    problem = (
        # First: the catalogue was not searched for such texts, so a missing entry means nothing.
        _text_problem("dimensions", dimensions)
        or _text_problem("properties", properties)
        or _missing_entry(result, declared)
        or _property_problem(kept, declared, definition.name)
    )
    sensitive = {name: kept.pop(name) for name in definition.sensitive if name in kept}
    variant = Variant(
        tenant_id, definition, dimensions, properties, kept, sensitive, result.sources, result.flags
    )
    return variant, dimensions_now, problem or _dimension_problem(dimensions_now, definition)


def _text_problem(field_name: str, pairs: Pairs) -> Problem | None:
    for name, value in pairs:
        if "\0" in value:
            return Problem(Kind.REJECTED, "TEXT_INVALID", f"{field_name}.{shown(name)}", "no NUL characters")
    return None


def _missing_entry(result: Enriched, declared: Collection[str]) -> Problem | None:
    """`declared`: names of properties"""
    if result.missing is None:
        return None
    place = "properties" if result.missing.key in declared else "dimensions"
    rule = f"the key of an entry in {result.missing.namespace}"
    field_name = f"{place}.{result.missing.key}"
    return Problem(Kind.REJECTED, "CATALOGUE_ENTRY_MISSING", field_name, rule, stage=Stage.ENRICH)


def _property_problem(
    given: Mapping[str, str], declared: Mapping[str, Property], event_type: str
) -> Problem | None:
    wrong = first_problem(given, declared, event_type)
    return None if wrong is None else Problem(Kind.REJECTED, *wrong)


def _dimension_problem(dimensions: DimensionSet, definition: EventType) -> Problem | None:
    declared = definition.dimensions_by_name
    for name, value in dimensions:
        dimension = declared.get(name)
        if dimension is None:
            return _rejected("DIMENSION_UNKNOWN", shown(name), f"a dimension of {definition.name}")
        if len(value) > dimension.max_length:
            return _rejected("DIMENSION_TOO_LONG", name, f"at most {dimension.max_length} characters")
        if "\0" in value:
            return _rejected("TEXT_INVALID", name, "no NUL characters")
        if dimension.values and value not in dimension.allowed:
            return _rejected("DIMENSION_NOT_ALLOWED", name, f"one of {listed(dimension.values)}")
    return _missing_dimension({name for name, value in dimensions if value}, definition)


def _missing_dimension(given: Collection[str], definition: EventType) -> Problem | None:
    """`given`: names that have a value; an empty value counts as none"""
    for dimension in definition.dimensions:
        if dimension.required and dimension.name not in given:
            rule = f"required by {definition.name}, and not empty"
            return _rejected("DIMENSION_REQUIRED", dimension.name, rule)
    return None


def _rejected(reason: str, dimension: str, rule: str) -> Problem:
    return Problem(Kind.REJECTED, reason, f"dimensions.{dimension}", rule)
