"""Which events of a batch are good, decided column by column.

Texts are judged once a dictionary entry, not once a row; a row is touched by arrays only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meterline_ingest.domain.columns import Columns, DimensionSet, Flags, Int64s, QuantityColumn
from meterline_ingest.domain.decimals import MAX_SCALE, MAX_UNITS, POWERS, to_text
from meterline_ingest.domain.event_types import MAX_QUANTITIES, EventType
from meterline_ingest.domain.limits import MAX_SUBJECT, TimeLimits
from meterline_ingest.domain.outcomes import Kind, Problem, Problems
from meterline_ingest.domain.ownership import Share, flag_foreign
from meterline_ingest.domain.type_book import TypeBook


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """One combination of tenant (number), type and dimensions."""

    tenant_id: int
    event_type: str
    dimensions: DimensionSet


@dataclass(slots=True)
class Slot:
    """One of the quantity columns of storage: units at the type's scale; `present` None means all."""

    units: Int64s
    present: Flags | None


@dataclass(slots=True)
class Checked:
    """A batch and what was found. Rows with problems have no meaning in the arrays.

    tenant_ids: a number an entry of `columns.tenants`, 0 where unknown
    series: distinct combinations; `series_index` a row
    slots: quantities by storage column
    """

    columns: Columns
    problems: Problems
    tenant_ids: Int64s
    series: list[SeriesKey]
    series_index: Int64s
    slots: list[Slot | None]


def check(
    columns: Columns,
    tenants: Mapping[str, int | None],
    types: TypeBook,
    times: TimeLimits,
    now_us: int,
    problems: Problems | None = None,
    shares: Sequence[Share] = (),
) -> Checked:
    """`tenants` maps each name of the batch to its number, or to None when it takes no events.

    Names that are missing in `tenants` are unknown. `problems` holds what was found before. `shares` tell who
    brought which rows; without them, somebody who may report for every tenant did.
    """
    problems = problems or Problems(len(columns))
    flag_foreign(columns, shares, problems)
    tenant_ids = _check_tenants(columns, tenants, problems)
    columns, definitions = _define(columns, tenant_ids, types)
    _check_types(columns, definitions, problems)
    series, series_index = _check_series(columns, tenant_ids, definitions, problems)
    _check_subjects(columns, definitions, problems)
    _check_times(columns, times, now_us, problems)
    slots = _check_quantities(columns, definitions, problems)
    return Checked(columns, problems, tenant_ids, series, series_index, slots)


def _check_tenants(columns: Columns, tenants: Mapping[str, int | None], problems: Problems) -> Int64s:
    numbers = np.zeros(len(columns.tenants), np.int64)
    for position, name in enumerate(columns.tenants):
        number = tenants.get(name)
        if number is not None:
            numbers[position] = number
            continue
        rows = columns.tenant_index == position
        if name in tenants:
            problems.flag_where(rows, "TENANT_INACTIVE", "tenant_id", "the tenant takes no events")
        else:
            problems.flag_where(rows, "UNKNOWN_TENANT", "tenant_id", "a tenant that was onboarded")
    return numbers


def _define(columns: Columns, tenant_ids: Int64s, types: TypeBook) -> tuple[Columns, list[EventType | None]]:
    """What each entry of `columns.types` means. A name that tenants have themselves gets an entry each."""
    definitions = [types.common.get(name) for name in columns.types]
    if types.own_names.isdisjoint(columns.types):
        return columns, definitions
    names, type_index = list(columns.types), columns.type_index.copy()
    for tenant_at, tenant_id in enumerate(tenant_ids.tolist()):
        own = types.own.get(tenant_id, {})
        for type_at, name in enumerate(columns.types):
            if name in own:
                mine = (columns.tenant_index == tenant_at) & (columns.type_index == type_at)
                type_index[mine] = len(names)
                names.append(name)
                definitions.append(own[name])
    return replace(columns, types=names, type_index=type_index), definitions


def _check_types(columns: Columns, definitions: Sequence[EventType | None], problems: Problems) -> None:
    for position, definition in enumerate(definitions):
        if definition is None:
            rows = columns.type_index == position
            problems.flag_where(rows, "UNKNOWN_EVENT_TYPE", "type", "a registered event type")


def _check_series(
    columns: Columns, tenant_ids: Int64s, definitions: Sequence[EventType | None], problems: Problems
) -> tuple[list[SeriesKey], Int64s]:
    """Each combination that occurs is judged, and named, once."""
    types, sets = len(columns.types), len(columns.dimension_sets)
    combined = columns.tenant_index.astype(np.int64)
    combined = (combined * types + columns.type_index) * sets + columns.dimension_index
    codes, index = distinct(combined, len(columns.tenants) * types * sets)
    series = []
    for position, code in enumerate(codes.tolist()):
        rest, set_at = divmod(code, sets)
        tenant_at, type_at = divmod(rest, types)
        dimensions = columns.dimension_sets[set_at]
        definition = definitions[type_at]
        if definition is not None:
            problem = _dimension_problem(dimensions, definition)
            if problem is not None:
                problems.flag(np.nonzero(index == position)[0].tolist(), problem)
        series.append(SeriesKey(int(tenant_ids[tenant_at]), columns.types[type_at], dimensions))
    return series, index


def distinct(values: Int64s, bound: int) -> tuple[Int64s, Int64s]:
    """As `np.unique(values, return_inverse=True)` for values in [0, bound), without sorting when few."""
    if bound > 4 * len(values) + 1024:
        codes, index = np.unique(values, return_inverse=True)
        return codes, index
    table = np.zeros(bound, np.int64)
    table[values] = 1
    codes = np.flatnonzero(table)
    table[codes] = np.arange(len(codes))
    return codes, table[values]


def _dimension_problem(dimensions: DimensionSet, definition: EventType) -> Problem | None:
    declared = {dimension.name: dimension for dimension in definition.dimensions}
    given = set()
    for name, value in dimensions:
        given.add(name)
        dimension = declared.get(name)
        if dimension is None:
            rule = f"a dimension of {definition.name}"
            return Problem(Kind.REJECTED, "DIMENSION_UNKNOWN", f"dimensions.{name[:64]}", rule)
        if len(value) > dimension.max_length:
            rule = f"at most {dimension.max_length} characters"
            return Problem(Kind.REJECTED, "DIMENSION_TOO_LONG", f"dimensions.{name}", rule)
        if "\0" in value:
            return Problem(Kind.REJECTED, "TEXT_INVALID", f"dimensions.{name}", "no NUL characters")
        if dimension.values and value not in dimension.values:
            rule = f"one of the {len(dimension.values)} values of {definition.name}"
            return Problem(Kind.REJECTED, "DIMENSION_NOT_ALLOWED", f"dimensions.{name}", rule)
    for dimension in definition.dimensions:
        if dimension.required and dimension.name not in given:
            rule = f"required by {definition.name}"
            return Problem(Kind.REJECTED, "DIMENSION_REQUIRED", f"dimensions.{dimension.name}", rule)
    return None


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


def _check_times(columns: Columns, limits: TimeLimits, now_us: int, problems: Problems) -> None:
    oldest, latest = now_us - limits.max_age_us, now_us + limits.max_ahead_us
    times = columns.times_us
    if len(times) and (times.min() < oldest or times.max() > latest):
        days = limits.max_age_us // 86_400_000_000
        problems.flag_where(times < oldest, "TIME_TOO_OLD", "time", f"at most {days} days ago")
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
