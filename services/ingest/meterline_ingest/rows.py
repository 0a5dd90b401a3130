"""Turns events written as rows into columns, touching each event once."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from meterline_ingest import wire
from meterline_ingest.domain import decimals, event_ids
from meterline_ingest.domain.columns import (
    NO_PROPERTIES,
    UUID_DTYPE,
    Columns,
    Ids,
    Indexes,
    Int64s,
    Pairs,
    QuantityColumn,
    kept_name,
)
from meterline_ingest.domain.outcomes import Kind, Problem, Problems
from meterline_ingest.translate import Interned, index_array

_NO_TIME = 0
_SECONDS_MAX = 253_402_300_799  # the end of the year 9999, as google.protobuf.Timestamp has it


class RowReader:
    """Collects rows of one or many calls; `finish` gives the columns and what was wrong with single rows."""

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
        self._problems: list[tuple[int, Problem]] = []

    def add(self, events: Iterable[Any], tenant_id: str, source: str) -> None:
        """Takes events in the form of `wire`."""
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
            # Undecoded: see `wire`. Two orders of one set are joined in `finish`. A slice is one call
            # into C, iteration is one a value.
            add_set(sets[tuple(event.dimensions[:])])
            add_quantities(quantity_sets[tuple(event.quantities[:])])
            if properties := event.properties:
                add_properties((len(times), property_sets[tuple(properties[:])]))
            time = event.time
            add_time(time.seconds * 1_000_000 + time.nanos // 1_000)
        self._sources.append((source, len(times)))

    def finish(self) -> tuple[Columns, Problems]:
        rows = len(self._times)
        problems = Problems(rows)
        times_us = self._read_times(problems)
        ids, text_ids = self._read_ids(problems)
        sets, set_index = self._read_sets(self._sets, self._set_index, "dimensions", problems)
        properties, property_index = self._read_properties(rows, problems)
        columns = Columns(
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
            times_us,
            self._read_quantities(problems),
        )
        return columns, problems

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
        decoded = []
        for position, entries in enumerate(sets):
            try:
                decoded.append(wire.read_map(entries))
            except DecodeError:
                decoded.append({})
                rows = [row for row, at in enumerate(index) if at == position]
                problems.flag(rows, Problem(Kind.REJECTED, "TEXT_INVALID", field, "UTF-8 names and values"))
        return decoded

    def _read_times(self, problems: Problems) -> Int64s:
        times = self._times
        if times and min(times) > 0 and max(times) <= _SECONDS_MAX * 1_000_000:
            return np.array(times, np.int64)
        for row, time in enumerate(times):
            if time == _NO_TIME:
                problems.flag([row], Problem(Kind.REJECTED, "TIME_MISSING", "time", "needed"))
            elif not 0 < time <= _SECONDS_MAX * 1_000_000:
                rule = "from 1970 to 9999"
                problems.flag([row], Problem(Kind.REJECTED, "TIME_OUT_OF_RANGE", "time", rule))
        return np.array([min(max(time, -(1 << 62)), 1 << 62) for time in times], np.int64)

    def _read_ids(self, problems: Problems) -> tuple[Ids, list[str | None] | None]:
        start = 0
        parts, texts = [], []
        for source, end in self._sources:
            chunk = self._ids[start:end]
            lengths = set(map(len, chunk))
            if lengths - {36}:
                self._check_ids(chunk, start, problems)
                # A bad id must not reach storage; its row is not stored, so any bytes serve.
                chunk = [text[: event_ids.MAX_LENGTH] for text in chunk]
            ids, text = event_ids.parse(source, chunk)
            parts.append(ids)
            texts.append(text or [None] * (end - start))
            start = end
        joined = np.concatenate(parts) if parts else np.zeros(0, UUID_DTYPE)
        kept = [text for chunk in texts for text in chunk]
        return joined, kept if any(kept) else None

    @staticmethod
    def _check_ids(ids: list[str], start: int, problems: Problems) -> None:
        for row, text in enumerate(ids, start):
            if not text:
                problems.flag([row], Problem(Kind.REJECTED, "ID_MISSING", "id", "needed"))
            elif len(text) > event_ids.MAX_LENGTH:
                rule = f"at most {event_ids.MAX_LENGTH} characters"
                problems.flag([row], Problem(Kind.REJECTED, "ID_TOO_LONG", "id", rule))
            elif "\0" in text:
                problems.flag([row], Problem(Kind.REJECTED, "TEXT_INVALID", "id", "no NUL characters"))

    def _read_quantities(self, problems: Problems) -> list[QuantityColumn]:
        """Parses each distinct set once, then spreads the values over the rows by index."""
        rows = index_array(self._quantity_index)
        sets = self._decode(self._quantity_sets, self._quantity_index, "quantities", problems)
        columns: dict[tuple[str, int], tuple[list[int], list[bool]]] = {}
        for position, pairs in enumerate(sets):
            for name, text in pairs.items():
                try:
                    units, scale = decimals.parse(text)
                except decimals.DecimalError as error:
                    problem = Problem(Kind.REJECTED, error.reason, f"quantities.{name[:64]}", str(error))
                    problems.flag(np.flatnonzero(rows == position).tolist(), problem)
                    continue
                column = columns.get((name, scale))
                if column is None:
                    kept = kept_name(name, self._known, len(columns))
                    empty = [0] * len(sets), [False] * len(sets)
                    column = columns.setdefault((kept, scale if kept else 0), empty)
                column[0][position] = units
                column[1][position] = True
        return [_spread(name, scale, *column, rows) for (name, scale), column in columns.items()]


def _spread(name: str, scale: int, units: list[int], present: list[bool], rows: Indexes) -> QuantityColumn:
    """The values of sets, given to the rows that have them."""
    there = None if all(present) else np.array(present)[rows]
    return QuantityColumn(name, scale, np.array(units, np.int64)[rows], there)
