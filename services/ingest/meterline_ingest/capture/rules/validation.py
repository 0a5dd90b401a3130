"""Which events of a batch are good, decided column by column.

Texts are judged once a dictionary entry, not once a row; a row is touched by arrays only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import numpy as np
from meterline.bounds import EARLIEST_US, LATEST_US
from meterline.clock import to_datetime

from meterline_ingest.capture.rules.combinations import Combinations, Fields, distinct
from meterline_ingest.capture.rules.quantities import Slot, to_slots
from meterline_ingest.capture.rules.skew import Corrected
from meterline_ingest.event.bounds import MAX_EVENT_ID, MAX_SUBJECT, TimeLimits
from meterline_ingest.event.columns import Columns, Flags, Int64s, interned
from meterline_ingest.event.outcomes import Kind, Problem
from meterline_ingest.event.problems import Problems
from meterline_ingest.event.series import SeriesKey
from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.event_types.rules.enrichment import Catalogue, EntryKey
from meterline_ingest.event_types.rules.types import EventType

# Marks a pair of tenant and name that is no type of the tenant's own.
_COMMON: Final = -1
UNKNOWN_TYPE: Final = ("UNKNOWN_EVENT_TYPE", "type", "a registered event type")
_TIME_RULE: Final = f"from 1970 to {to_datetime(LATEST_US - 1).year}"


@dataclass(slots=True)
class Checked:
    """A batch and its problems. Rows with problems have no meaning in the arrays.

    tenant_ids: a number an entry of `columns.tenants`, 0 where unknown
    slots: quantities by storage column
    doubtful: rows whose only problem (their time, or an archived type) does not matter if the event is
        stored already; these rows do have a meaning in the arrays
    """

    columns: Columns
    problems: Problems
    tenant_ids: Int64s
    fields: Fields
    slots: list[Slot | None]
    doubtful: Sequence[int] = ()

    @property
    def series(self) -> list[SeriesKey]:
        return self.fields.series

    @property
    def series_index(self) -> Int64s:
        return self.fields.series_index


class Check:
    """Checks one batch in two steps: the catalogue entries that it needs, then the verdict."""

    def __init__(
        self,
        columns: Columns,
        tenants: Mapping[str, int | None],
        types: TypeBook,
        problems: Problems | None = None,
    ) -> None:
        """`tenants` maps each name of the batch to its number, or to None when it takes no events.

        Names that are missing in `tenants` are unknown. `problems` holds what was found before, including
        rows of tenants that their callers may not report for.
        """
        self._problems = problems or Problems.read_with(columns)
        check_forms(columns, self._problems)
        self._tenant_ids = _check_tenants(columns, tenants, self._problems)
        self._columns, self._definitions = _define(columns, self._tenant_ids, types)
        _check_types(self._columns, self._definitions, self._problems)
        self._combinations = Combinations(self._columns, self._tenant_ids, self._definitions)

    @property
    def combinations(self) -> int:
        """How many different combinations are judged."""
        return len(self._combinations)

    def entries_needed(self) -> set[EntryKey]:
        """The catalogue entries to read."""
        return self._combinations.entries_needed()

    def verdict(
        self,
        times: TimeLimits,
        now_us: int | Int64s,
        catalogue: Catalogue | None = None,
        any_age: Flags | None = None,
        corrected: Corrected | None = None,
        *,
        new: bool = True,
    ) -> Checked:
        """
        now_us: one for all, or one a row
        any_age: rows that may be of any age
        corrected: the times that are stored and judged by age, where they differ from those that were sent
        new: whether the events are not stored yet; archived types take no new ones
        """
        columns, problems = self._columns, self._problems
        fields = self._combinations.check(catalogue or {}, problems)
        _check_subjects(columns, self._definitions, problems)
        slots = to_slots(columns, self._definitions, problems)
        if corrected is None:
            corrected = Corrected(columns.times_us, columns.times_us, [])
        # Last, to find the rows that have no other problem.
        late = Problems(problems.rows)
        if new:
            _check_archived(columns, self._definitions, late)
        _check_correction(corrected, times, now_us, any_age, late)
        _check_times(corrected.times_us, times, now_us, any_age, late)
        doubtful = [row for row in late.by_row if row not in problems.by_row]
        problems.by_row.update((row, late.by_row[row]) for row in doubtful)
        columns = replace(columns, times_us=corrected.times_us)
        return Checked(columns, problems, self._tenant_ids, fields, slots, doubtful)


def check_forms(columns: Columns, problems: Problems) -> None:
    """Checks what every event needs, whatever its tenant and type: an id, and a time that all services can
    represent. Runs before either is looked up, computed with or stored."""
    check_times(columns.times_us, problems)
    if columns.text_ids is None:
        return
    for row, text in enumerate(columns.text_ids):
        if text is not None and (wrong := _id_problem(text)) is not None:
            problems.flag([row], wrong)


def check_times(times_us: Int64s, problems: Problems) -> None:
    """Flags the rows whose times no service can represent: see `meterline.bounds`."""
    out = (times_us < EARLIEST_US) | (times_us >= LATEST_US)
    problems.flag_where(out, "TIME_OUT_OF_RANGE", "time", _TIME_RULE)


def _check_correction(
    corrected: Corrected, limits: TimeLimits, now_us: int | Int64s, any_age: Flags | None, problems: Problems
) -> None:
    """Flags rows that are too old only by the correction: `sent_at` is wrong, not their own times."""
    if corrected.times_us is corrected.sent_us:
        return
    oldest = now_us - limits.max_age_us
    if any_age is not None:
        oldest = np.where(any_age, EARLIEST_US, oldest)
    moved = (corrected.times_us < EARLIEST_US) | (corrected.times_us < oldest) & (corrected.sent_us >= oldest)
    rule = "when the call was sent; corrected by this one the event is too old"
    problems.flag_where(moved, "SENT_AT_WRONG", "sent_at", rule)


def _id_problem(text: str) -> Problem | None:
    if not text:
        return Problem(Kind.REJECTED, "ID_MISSING", "id", "needed")
    if len(text) > MAX_EVENT_ID:
        return Problem(Kind.REJECTED, "ID_TOO_LONG", "id", f"at most {MAX_EVENT_ID} characters")
    if "\0" in text:
        return Problem(Kind.REJECTED, "TEXT_INVALID", "id", "no NUL characters")
    return None


def _check_tenants(columns: Columns, tenants: Mapping[str, int | None], problems: Problems) -> Int64s:
    numbers = np.array([tenants.get(name) or 0 for name in columns.tenants], np.int64)
    if not numbers.all():
        inactive = np.array([name in tenants for name in columns.tenants]) & (numbers == 0)
        missing = np.array([not name for name in columns.tenants])
        unknown = (numbers == 0) & ~inactive & ~missing
        rows = columns.tenant_index
        problems.flag_where(missing[rows], "TENANT_MISSING", "tenant_id", "needed, of the event or the call")
        problems.flag_where(inactive[rows], "TENANT_INACTIVE", "tenant_id", "the tenant takes no events")
        problems.flag_where(unknown[rows], "UNKNOWN_TENANT", "tenant_id", "a tenant that was onboarded")
    return numbers


def _define(columns: Columns, tenant_ids: Int64s, types: TypeBook) -> tuple[Columns, list[EventType | None]]:
    """The definition of each entry of `columns.types`. A name that tenants define themselves gets several.

    Looks up only pairs of tenant and type that occur, not all possible ones: callers choose both lists.
    """
    definitions = [types.common.get(name) for name in columns.types]
    # A type of the operator has precedence over tenants' own types of the same name.
    own_here = np.array(
        [
            definition is None and name in types.own_names
            for name, definition in zip(columns.types, definitions, strict=True)
        ],
        np.bool_,
    )
    if not own_here.any():
        return columns, definitions
    rows = np.flatnonzero(own_here[columns.type_index])
    # Renumbered, since dictionaries may repeat an entry.
    known, tenant_of_entry = np.unique(tenant_ids, return_inverse=True)
    names, name_of_entry = interned(columns.types)
    pairs = tenant_of_entry[columns.tenant_index[rows]] * len(names) + name_of_entry[columns.type_index[rows]]
    codes, index = distinct(pairs, len(known) * len(names))
    found = [
        types.own.get(int(known[code // len(names)]), {}).get(names[code % len(names)])
        for code in codes.tolist()
    ]
    types_now, entries = list(columns.types), np.full(len(codes), _COMMON)
    for at, (code, definition) in enumerate(zip(codes.tolist(), found, strict=True)):
        if definition is not None:
            entries[at] = len(types_now)
            types_now.append(names[code % len(names)])
            definitions.append(definition)
    type_index = columns.type_index.copy()
    own = entries[index] != _COMMON
    type_index[rows[own]] = entries[index][own]
    return replace(columns, types=types_now, type_index=type_index), definitions


def _check_types(columns: Columns, definitions: Sequence[EventType | None], problems: Problems) -> None:
    unknown = np.array([definition is None for definition in definitions])
    if unknown.any():
        rows = unknown[columns.type_index]
        problems.flag_where(rows, *UNKNOWN_TYPE)


def _check_archived(columns: Columns, definitions: Sequence[EventType | None], problems: Problems) -> None:
    # By identity: a type is one object in its book, and callers may name it often.
    archived = {id(each): each.archived_at for each in definitions if each and each.archived_at}
    if not archived:
        return
    problem_of = {key: _archived_since(moment) for key, moment in archived.items()}
    of_entry = [problem_of.get(id(each)) for each in definitions]
    rows = np.flatnonzero(np.array([problem is not None for problem in of_entry])[columns.type_index])
    for row, entry in zip(rows.tolist(), columns.type_index[rows].tolist(), strict=True):
        if (problem := of_entry[entry]) is not None:
            problems.flag([row], problem)


def _archived_since(moment: datetime) -> Problem:
    since = moment.astimezone(UTC).isoformat(timespec="seconds")
    rule = f"a type that takes events; this one is archived since {since}"
    return Problem(Kind.REJECTED, "TYPE_ARCHIVED", "type", rule)


def _check_subjects(columns: Columns, definitions: Sequence[EventType | None], problems: Problems) -> None:
    if max(map(len, columns.subjects), default=0) > MAX_SUBJECT:
        long = np.array([len(subject) > MAX_SUBJECT for subject in columns.subjects])
        rule = f"at most {MAX_SUBJECT} characters"
        problems.flag_where(long[columns.subject_index], "SUBJECT_TOO_LONG", "subject", rule)
    if "\0" in "".join(columns.subjects):
        bad = np.array(["\0" in subject for subject in columns.subjects])
        problems.flag_where(bad[columns.subject_index], "TEXT_INVALID", "subject", "no NUL characters")
    if "" in columns.subjects:
        needed = np.array([bool(definition and definition.subject_required) for definition in definitions])
        empty = np.array([not subject for subject in columns.subjects])
        mask = needed[columns.type_index] & empty[columns.subject_index]
        problems.flag_where(mask, "SUBJECT_REQUIRED", "subject", "required by the event type")


def _check_times(
    times: Int64s, limits: TimeLimits, now_us: int | Int64s, any_age: Flags | None, problems: Problems
) -> None:
    oldest, latest = now_us - limits.max_age_us, now_us + limits.max_ahead_us
    if ((times < oldest) | (times > latest)).any():
        days = limits.max_age_us // 86_400_000_000
        old = times < oldest if any_age is None else (times < oldest) & ~any_age
        problems.flag_where(old, "TIME_TOO_OLD", "time", f"at most {days} days ago")
        seconds = limits.max_ahead_us // 1_000_000
        problems.flag_where(times > latest, "TIME_IN_FUTURE", "time", f"at most {seconds} s ahead")
