"""Which events of a batch are good, decided column by column.

Texts are judged once a dictionary entry, not once a row; a row is touched by arrays only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meterline_ingest.domain.columns import Columns, Flags, Int64s, QuantityColumn
from meterline_ingest.domain.decimals import MAX_SCALE, MAX_UNITS, POWERS, to_text
from meterline_ingest.domain.enrichment import Catalogue, EntryKey
from meterline_ingest.domain.event_types import MAX_QUANTITIES, EventType
from meterline_ingest.domain.fields import Combinations, Fields, SeriesKey
from meterline_ingest.domain.limits import MAX_SUBJECT, TimeLimits
from meterline_ingest.domain.outcomes import Problems
from meterline_ingest.domain.type_book import TypeBook


@dataclass(slots=True)
class Slot:
    """One of the quantity columns of storage: units at the type's scale; `present` None means all."""

    units: Int64s
    present: Flags | None


@dataclass(slots=True)
class Checked:
    """A batch and what was found. Rows with problems have no meaning in the arrays.

    tenant_ids: a number an entry of `columns.tenants`, 0 where unknown
    slots: quantities by storage column
    """

    columns: Columns
    problems: Problems
    tenant_ids: Int64s
    fields: Fields
    slots: list[Slot | None]

    @property
    def series(self) -> list[SeriesKey]:
        return self.fields.series

    @property
    def series_index(self) -> Int64s:
        return self.fields.series_index


class Check:
    """The check of one batch, in two steps: what it needs to know of the catalogue, and the verdict."""

    def __init__(
        self,
        columns: Columns,
        tenants: Mapping[str, int | None],
        types: TypeBook,
        problems: Problems | None = None,
    ) -> None:
        """`tenants` maps each name of the batch to its number, or to None when it takes no events.

        Names that are missing in `tenants` are unknown. `problems` holds what was found before, that a row is
        of a tenant for which its caller may not report among it.
        """
        self._problems = problems or Problems(len(columns))
        self._tenant_ids = _check_tenants(columns, tenants, self._problems)
        self._columns, self._definitions = _define(columns, self._tenant_ids, types)
        _check_types(self._columns, self._definitions, self._problems)
        self._combinations = Combinations(self._columns, self._tenant_ids, self._definitions)

    def entries_needed(self) -> set[EntryKey]:
        return self._combinations.entries_needed()

    def verdict(
        self,
        times: TimeLimits,
        now_us: int | Int64s,
        catalogue: Catalogue | None = None,
        any_age: Flags | None = None,
    ) -> Checked:
        """
        now_us: one for all, or one a row
        any_age: rows that may be as old as they like
        """
        columns, problems = self._columns, self._problems
        fields = self._combinations.check(catalogue or {}, problems)
        _check_subjects(columns, self._definitions, problems)
        _check_times(columns, times, now_us, any_age, problems)
        slots = _check_quantities(columns, self._definitions, problems)
        return Checked(columns, problems, self._tenant_ids, fields, slots)


def _check_tenants(columns: Columns, tenants: Mapping[str, int | None], problems: Problems) -> Int64s:
    numbers = np.array([tenants.get(name) or 0 for name in columns.tenants], np.int64)
    if not numbers.all():
        inactive = np.array([name in tenants for name in columns.tenants]) & (numbers == 0)
        unknown = (numbers == 0) & ~inactive
        rows = columns.tenant_index
        problems.flag_where(inactive[rows], "TENANT_INACTIVE", "tenant_id", "the tenant takes no events")
        problems.flag_where(unknown[rows], "UNKNOWN_TENANT", "tenant_id", "a tenant that was onboarded")
    return numbers


def _define(columns: Columns, tenant_ids: Int64s, types: TypeBook) -> tuple[Columns, list[EventType | None]]:
    """What each entry of `columns.types` means. A name that tenants have themselves gets an entry each."""
    definitions = [types.common.get(name) for name in columns.types]
    if types.own_names.isdisjoint(columns.types):
        return columns, definitions
    names, type_index = list(columns.types), columns.type_index.copy()
    for tenant_at, tenant_id in enumerate(tenant_ids.tolist()):
        own = types.own.get(tenant_id, {})
        if own.keys().isdisjoint(columns.types):
            continue
        for type_at, name in enumerate(columns.types):
            if name in own:
                mine = (columns.tenant_index == tenant_at) & (columns.type_index == type_at)
                type_index[mine] = len(names)
                names.append(name)
                definitions.append(own[name])
    return replace(columns, types=names, type_index=type_index), definitions


def _check_types(columns: Columns, definitions: Sequence[EventType | None], problems: Problems) -> None:
    unknown = np.array([definition is None for definition in definitions])
    if unknown.any():
        rows = unknown[columns.type_index]
        problems.flag_where(rows, "UNKNOWN_EVENT_TYPE", "type", "a registered event type")


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
    columns: Columns, limits: TimeLimits, now_us: int | Int64s, any_age: Flags | None, problems: Problems
) -> None:
    oldest, latest = now_us - limits.max_age_us, now_us + limits.max_ahead_us
    times = columns.times_us
    if ((times < oldest) | (times > latest)).any():
        days = limits.max_age_us // 86_400_000_000
        old = times < oldest if any_age is None else (times < oldest) & ~any_age
        problems.flag_where(old, "TIME_TOO_OLD", "time", f"at most {days} days ago")
        seconds = limits.max_ahead_us // 1_000_000
        problems.flag_where(times > latest, "TIME_IN_FUTURE", "time", f"at most {seconds} s ahead")


def _check_quantities(
    columns: Columns, definitions: Sequence[EventType | None], problems: Problems
) -> list[Slot | None]:
    """Moves every quantity to the storage column and scale that its row's type gives it."""
    slots: list[Slot | None] = [None] * MAX_QUANTITIES
    for type_at, definition in enumerate(definitions):
        if definition is None:
            continue
        # None stands for all rows, which is what most batches are.
        rows = None if len(definitions) == 1 else columns.type_index == type_at
        names = {quantity.name: at for at, quantity in enumerate(definition.quantities)}
        # By name, so that of several faults every form of a batch reports the same.
        for column in sorted(columns.quantities, key=lambda column: column.name):
            at = names.get(column.name)
            if at is None:
                mask = _both(rows, column.present, len(columns))
                rule = f"a quantity of {definition.name}"
                problems.flag_where(mask, "QUANTITY_UNKNOWN", f"quantities.{column.name[:64]}", rule)
            else:
                _fill(slots, at, column, definition, rows, problems)
        for at, quantity in enumerate(definition.quantities):
            if quantity.required:
                mask = _absent(slots[at], rows, len(columns))
                rule = f"required by {definition.name}"
                problems.flag_where(mask, "QUANTITY_REQUIRED", f"quantities.{quantity.name}", rule)
    return slots


def _fill(
    slots: list[Slot | None],
    at: int,
    column: QuantityColumn,
    definition: EventType,
    rows: Flags | None,
    problems: Problems,
) -> None:
    quantity = definition.quantities[at]
    field = f"quantities.{quantity.name}"
    units = column.units
    size = len(units)
    mine = _both(rows, column.present, size)
    if column.scale > MAX_SCALE:
        problems.flag_where(mine, "QUANTITY_TOO_PRECISE", field, f"at most {quantity.scale} decimals")
        return
    limit = MAX_UNITS
    if column.scale < quantity.scale:
        # Judged before scaling up, so that no product can leave 64 bits.
        limit = MAX_UNITS // POWERS[quantity.scale - column.scale]
    out = (units >= limit) | (units <= -limit)
    if out.any():
        problems.flag_where(out & mine, "QUANTITY_OUT_OF_RANGE", field, "at most 15 significant digits")
        units = np.where(out, 0, units)
    if column.scale < quantity.scale:
        units = units * POWERS[quantity.scale - column.scale]
    elif column.scale > quantity.scale:
        units, rest = np.divmod(units, POWERS[column.scale - quantity.scale])
        rule = f"at most {quantity.scale} decimals"
        problems.flag_where((rest != 0) & mine, "QUANTITY_TOO_PRECISE", field, rule)
    if not quantity.signed:
        problems.flag_where((units < 0) & mine, "QUANTITY_NEGATIVE", field, "not negative")
    if quantity.minimum is not None:
        rule = f"at least {to_text(quantity.minimum, quantity.scale)}"
        problems.flag_where((units < quantity.minimum) & mine, "QUANTITY_BELOW_MINIMUM", field, rule)
    if quantity.maximum is not None:
        rule = f"at most {to_text(quantity.maximum, quantity.scale)}"
        problems.flag_where((units > quantity.maximum) & mine, "QUANTITY_ABOVE_MAXIMUM", field, rule)
    slot = slots[at]
    if slot is None and rows is None and column.present is None:
        slots[at] = Slot(units, None)
        return
    if slot is None:
        slot = slots[at] = Slot(np.zeros(size, np.int64), np.zeros(size, np.bool_))
    if slot.present is not None:
        slot.units[mine] = units[mine]
        slot.present[mine] = True


def _both(rows: Flags | None, present: Flags | None, size: int) -> Flags:
    if rows is None:
        return np.ones(size, np.bool_) if present is None else present
    return rows if present is None else rows & present


def _absent(slot: Slot | None, rows: Flags | None, size: int) -> Flags:
    if slot is None:
        return np.ones(size, np.bool_) if rows is None else rows
    if slot.present is None:
        return np.zeros(size, np.bool_)
    return ~slot.present if rows is None else rows & ~slot.present
