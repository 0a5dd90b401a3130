"""Turns events written as rows into columns, touching each event once.

Flags only what no column can hold; `rules` judges the rest, in the same way for rows and columns.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from meterline import decimals

from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.parse.columns import Interned, index_array
from meterline_ingest.event import ids as event_ids
from meterline_ingest.event.columns import (
    NO_PROPERTIES,
    SPARSE,
    UUID_DTYPE,
    Columns,
    Ids,
    Indexes,
    Int64s,
    Pairs,
    QuantityColumn,
    kept_name,
    with_values,
)
from meterline_ingest.event.names import shown
from meterline_ingest.event.outcomes import Kind, Problem, Stage
from meterline_ingest.event.problems import Problems

_MICROSECONDS: Final = 1_000_000
_NANOS: Final = 1_000_000_000
# Replaces a time that no column can hold.
_NO_TIME: Final = -1
_MIN_INT64: Final = -(1 << 63)
_MAX_INT64: Final = (1 << 63) - 1


class RowReader:
    """Collects rows of one or many calls; `finish` returns the columns."""

    def __init__(self, known: Container[str]) -> None:
        """known: the names of quantities of all types"""
        self._known = known
        self._tenants, self._types, self._subjects = Interned(), Interned(), Interned()
        self._sets, self._quantity_sets, self._property_sets = Interned(), Interned(), Interned()
        self._tenant_index: list[int] = []
        self._type_index: list[int] = []
        self._subject_index: list[int] = []
        self._set_index: list[int] = []
        self._quantity_index: list[int] = []
        # Few events have properties: the row and the set of those that do.
        self._properties: list[tuple[int, int]] = []
        self._times: list[int] = []
        self._ids: list[str] = []
        self._sources: list[tuple[str, int]] = []
        # Problems of times, by row: later checks see only a number.
        self._bad_times: list[tuple[int, Problem]] = []

    def add(self, events: Iterable[Any], tenant_id: str, source: str) -> None:
        """Adds events in the form of `wire`."""
        tenants, types, subjects = self._tenants, self._types, self._subjects
        sets, quantity_sets, property_sets = self._sets, self._quantity_sets, self._property_sets
        times, add_properties = self._times, self._properties.append
        add_tenant, add_type = self._tenant_index.append, self._type_index.append
        add_subject, add_set = self._subject_index.append, self._set_index.append
        add_quantities, add_time, add_id = self._quantity_index.append, times.append, self._ids.append
        for event in events:
            add_id(event.id)
            add_tenant(tenants[event.tenant_id or tenant_id])
            add_type(types[event.type])
            add_subject(subjects[event.subject])
            # Undecoded: see `wire`. `finish` merges different orders of one set. A slice is one call into C,
            # iteration is one a value.
            add_set(sets[tuple(event.dimensions[:])])
            add_quantities(quantity_sets[tuple(event.quantities[:])])
            if properties := event.properties:
                add_properties((len(times), property_sets[tuple(properties[:])]))
            time = event.time
            seconds, nanos = time.seconds, time.nanos
            if 0 <= nanos < _NANOS and seconds:
                add_time(seconds * _MICROSECONDS + nanos // 1_000)
            else:
                add_time(self._unusual_time(event, len(times)))
        self._sources.append((source, len(times)))

    def _unusual_time(self, event: Any, row: int) -> int:
        """Microseconds of a time in the first second of 1970. Flags a time that is missing or invalid."""
        seconds, nanos = event.time.seconds, event.time.nanos
        if not event.ByteSize():
            rule = "an event, which is needed"
            self._bad_times.append((row, _read_problem("EVENT_MISSING", "event", rule)))
        elif not event.HasField("time"):
            self._bad_times.append((row, _read_problem("TIME_MISSING", "time", "needed")))
        elif not 0 <= nanos < _NANOS:
            rule = "nanos from 0 to 999999999"
            self._bad_times.append((row, _read_problem("TIME_OUT_OF_RANGE", "time", rule)))
        else:
            return int(seconds * _MICROSECONDS + nanos // 1_000)
        return _NO_TIME

    def finish(self) -> Columns:
        rows = len(self._times)
        problems = Problems(rows)
        for row, problem in self._bad_times:
            problems.flag([row], problem)
        ids, text_ids = self._read_ids()
        sets, set_index = self._read_sets(self._sets, self._set_index, "dimensions", problems)
        properties, property_index = self._read_properties(rows, problems)
        quantities = self._read_quantities(problems)
        return Columns(
            list(self._tenants),
            index_array(self._tenant_index),
            list(self._types),
            index_array(self._type_index),
            list(self._subjects),
            index_array(self._subject_index),
            sets,
            set_index,
            properties,
            property_index,
            ids,
            text_ids,
            self._read_times(),
            quantities,
            problems.by_row,
        )

    def _read_sets(
        self, sets: Interned, index: Sequence[int], field: str, problems: Problems
    ) -> tuple[list[Pairs], Indexes]:
        """Distinct sets, sorted, and each row's position among them."""
        canonical = Interned()
        decoded = self._decode(sets, index, field, problems)
        renumbered = np.array([canonical[tuple(sorted(each.items()))] for each in decoded] or [0], np.uint32)
        return list(canonical), renumbered[index_array(index)] if index else index_array([])

    def _read_properties(self, rows: int, problems: Problems) -> tuple[list[Pairs], Indexes]:
        if not self._properties:
            return list(NO_PROPERTIES), np.zeros(rows, np.uint32)
        index = [self._property_sets[()]] * rows
        for row, position in self._properties:
            index[row] = position
        return self._read_sets(self._property_sets, index, "properties", problems)

    @staticmethod
    def _decode(sets: Interned, index: Sequence[int], field: str, problems: Problems) -> list[dict[str, str]]:
        decoded, wrong = [], {}
        for position, entries in enumerate(sets):
            try:
                decoded.append(wire.read_map(entries))
            except DecodeError:
                decoded.append({})
                wrong[position] = _read_problem("TEXT_INVALID", field, "UTF-8 names and values")
        _flag_sets(wrong, index, problems)
        return decoded

    def _read_times(self) -> Int64s:
        times = self._times
        if times and (min(times) < _MIN_INT64 or max(times) > _MAX_INT64):
            times = list(map(clamped, times))
        return np.array(times, np.int64)

    def _read_ids(self) -> tuple[Ids, list[str | None] | None]:
        start = 0
        parts, texts = [], []
        for source, end in self._sources:
            ids, text = event_ids.parse(source, self._ids[start:end])
            parts.append(ids)
            texts.append(text or [None] * (end - start))
            start = end
        joined = np.concatenate(parts) if parts else np.zeros(0, UUID_DTYPE)
        kept = [text for chunk in texts for text in chunk]
        return joined, kept if any(text is not None for text in kept) else None

    def _read_quantities(self, problems: Problems) -> list[QuantityColumn]:
        """Parses each distinct set once, then spreads the values over the rows by index."""
        sets = self._decode(self._quantity_sets, self._quantity_index, "quantities", problems)
        columns: dict[tuple[str, int], dict[int, int]] = {}
        wrong: dict[int, Problem] = {}
        for position, pairs in enumerate(sets):
            # Sorted by name, so that rows and columns report the same of several faults.
            for name, text in sorted(pairs.items()) if len(pairs) > 1 else pairs.items():
                try:
                    units, scale = decimals.parse_units(text)
                except decimals.DecimalError as error:
                    problem = _read_problem(error.reason, f"quantities.{shown(name)}", str(error))
                    wrong.setdefault(position, problem)
                    continue
                column = columns.get((name, scale))
                if column is None:
                    kept = kept_name(name, self._known, len(columns))
                    column = columns.setdefault((kept, scale if kept else 0), {})
                column[position] = units
        _flag_sets(wrong, self._quantity_index, problems)
        spread = _Spread(index_array(self._quantity_index), len(sets))
        return [spread.column(name, scale, values) for (name, scale), values in columns.items()]


class _Spread:
    """Spreads the values of sets over the rows that have these sets."""

    def __init__(self, rows: Indexes, sets: int) -> None:
        """rows: the set of each row"""
        self._rows = rows
        self._sets = sets

    @cached_property
    def _order(self) -> Int64s:
        """The rows by their sets."""
        return np.argsort(self._rows, kind="stable")

    @cached_property
    def _counts(self) -> Int64s:
        """How many rows have each set."""
        return np.bincount(self._rows, minlength=self._sets)

    @cached_property
    def _starts(self) -> Int64s:
        """Where the rows of each set begin in `_order`."""
        return np.cumsum(self._counts) - self._counts

    def column(self, name: str, scale: int, values: Mapping[int, int]) -> QuantityColumn:
        """values: by set"""
        positions = np.fromiter(values, np.int64, len(values))
        units = np.fromiter(values.values(), np.int64, len(values))
        if len(values) * SPARSE > self._sets:
            by_set, there = np.zeros(self._sets, np.int64), np.zeros(self._sets, np.bool_)
            by_set[positions], there[positions] = units, True
            present = None if there.all() else there[self._rows]
            return QuantityColumn(name, scale, by_set[self._rows], present)
        counts = self._counts[positions]
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self._order[np.repeat(self._starts[positions], counts) + within]
        return with_values(name, scale, rows, np.repeat(units, counts), len(self._rows))


def clamped(time_us: int) -> int:
    """The time, limited to 64 bits: its seconds alone have 64. What is out of any range stays so."""
    return min(max(time_us, _MIN_INT64), _MAX_INT64)


def _read_problem(reason: str, field: str, rule: str) -> Problem:
    return Problem(Kind.REJECTED, reason, field, rule, stage=Stage.READ)


def _flag_sets(wrong: Mapping[int, Problem], index: Sequence[int], problems: Problems) -> None:
    """Flags the rows that have sets with problems, in one pass however many sets there are."""
    if wrong:
        for row, position in enumerate(index):
            if position in wrong:
                problems.flag([row], wrong[position])
