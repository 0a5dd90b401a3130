"""Protobuf to columns and back. Both ways in, rows and columns, end in the same `Columns`."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from meterline.errors import InvalidArgumentError
from meterline_protos.ingest.v1 import capture_pb2

from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.rules.quantities import MAX_SENT_SCALE, invalid_values
from meterline_ingest.event import ids as event_ids
from meterline_ingest.event.bounds import MAX_COLUMN_ROWS, MAX_QUANTITY_COLUMNS
from meterline_ingest.event.columns import (
    NO_PROPERTIES,
    UUID_DTYPE,
    Columns,
    Flags,
    Indexes,
    Pairs,
    QuantityColumn,
)
from meterline_ingest.event.names import shown
from meterline_ingest.event.outcomes import Kind, Problem, Stage
from meterline_ingest.event.problems import Problems

_INDEX = np.dtype("<u4")
_INT64 = np.dtype("<i8")


def from_columns(message: capture_pb2.EventColumns, tenant_id: str, source: str) -> Columns:
    """Reads packed columns, in the form of `wire`, without copying them.

    Refuses only what concerns all rows: columns that do not fit together, and dictionaries that are no UTF-8.
    Single events are judged later, like events that came as rows.

    Raises InvalidArgumentError naming the column.
    """
    rows = _count(message)
    _check_dictionaries(message, rows)
    tenants = list(message.tenants) or [tenant_id]
    subjects = list(message.subjects) or [""]
    sets = _sets("dimension_sets", message.dimension_sets)
    property_sets = _sets("property_sets", message.property_sets)
    ids, text_ids = _ids(message, rows, source)
    quantities, misread = _quantities(message, rows)
    return Columns(
        tenants,
        _index(message.tenant_index, "tenant_index", rows, len(tenants)),
        list(message.types),
        _index(message.type_index, "type_index", rows, len(message.types)),
        subjects,
        _index(message.subject_index, "subject_index", rows, len(subjects)),
        sets or [()],
        _index(message.dimension_set_index, "dimension_set_index", rows, len(sets) or 1),
        property_sets or list(NO_PROPERTIES),
        _index(message.property_set_index, "property_set_index", rows, len(property_sets) or 1),
        ids,
        text_ids,
        np.frombuffer(message.times_us, _INT64),
        quantities,
        misread,
    )


def _sets(name: str, messages: Iterable[Any]) -> list[Pairs]:
    try:
        return [tuple(sorted(wire.read_map(each.values).items())) for each in messages]
    except DecodeError:
        raise InvalidArgumentError(f"columns.{name}", "UTF-8 names and values") from None


def _count(message: capture_pb2.EventColumns) -> int:
    rows, rest = divmod(len(message.times_us), 8)
    if rest:
        raise InvalidArgumentError("columns.times_us", "8 bytes a row")
    if rows > MAX_COLUMN_ROWS:
        raise InvalidArgumentError("columns", f"at most {MAX_COLUMN_ROWS} rows", "TOO_MANY_EVENTS")
    return rows


def _check_dictionaries(message: capture_pb2.EventColumns, rows: int) -> None:
    """Refuses more entries than rows: those that no row uses only cost memory and time."""
    for name in ("tenants", "types", "subjects", "dimension_sets", "property_sets"):
        if len(getattr(message, name)) > max(rows, 1):
            raise InvalidArgumentError(f"columns.{name}", "at most one a row")
    if len(message.quantities) > MAX_QUANTITY_COLUMNS:
        raise InvalidArgumentError("columns.quantities", f"at most {MAX_QUANTITY_COLUMNS}")


def _index(packed: bytes, name: str, rows: int, entries: int) -> Indexes:
    if not packed:
        if entries != 1 and rows:
            raise InvalidArgumentError(f"columns.{name}", "needed, since its dictionary has not one entry")
        return np.zeros(rows, np.uint32)
    if len(packed) != 4 * rows:
        raise InvalidArgumentError(f"columns.{name}", f"4 bytes a row, {rows} rows as times_us has")
    index = np.frombuffer(packed, _INDEX)
    if index.max() >= entries:
        raise InvalidArgumentError(f"columns.{name}", f"positions below {entries}, as the dictionary has")
    return index


def _ids(
    message: capture_pb2.EventColumns, rows: int, source: str
) -> tuple[npt.NDArray[np.void], list[str | None] | None]:
    if message.text_ids:
        if message.event_ids:
            raise InvalidArgumentError("columns.text_ids", "either these or event_ids")
        if len(message.text_ids) != rows:
            raise InvalidArgumentError("columns.text_ids", f"one a row, {rows} rows as times_us has")
        return event_ids.parse(source, message.text_ids)
    if len(message.event_ids) != 16 * rows:
        raise InvalidArgumentError("columns.event_ids", f"16 bytes a row, {rows} rows as times_us has")
    return np.frombuffer(message.event_ids, UUID_DTYPE), None


def _quantities(
    message: capture_pb2.EventColumns, rows: int
) -> tuple[list[QuantityColumn], dict[int, Problem]]:
    """The columns, and problems of the rows with a value that no decimal text could express."""
    columns: list[QuantityColumn] = []
    problems = Problems(rows)
    for column in sorted(message.quantities, key=lambda column: column.name):
        field = f"columns.quantities[{column.name[:64]}]"
        if columns and columns[-1].name == column.name:
            raise InvalidArgumentError(field, "one column a quantity")
        if len(column.units) != 8 * rows:
            raise InvalidArgumentError(f"{field}.units", f"8 bytes a row, {rows} rows as times_us has")
        units, present = np.frombuffer(column.units, _INT64), _present(column.present, field, rows)
        columns.append(QuantityColumn(column.name, min(column.scale, MAX_SENT_SCALE), units, present))
        for mask, reason, rule in invalid_values(columns[-1]):
            name = f"quantities.{shown(column.name)}"
            problem = Problem(Kind.REJECTED, reason, name, rule, stage=Stage.READ)
            problems.flag(np.flatnonzero(mask).tolist(), problem)
    return columns, problems.by_row


def _present(packed: bytes, field: str, rows: int) -> Flags | None:
    if not packed:
        return None
    if len(packed) != rows:
        raise InvalidArgumentError(f"{field}.present", f"1 byte a row, {rows} rows as times_us has")
    return np.frombuffer(packed, np.uint8).astype(np.bool_)


def sent_ids(message: capture_pb2.EventColumns, rows: Iterable[int]) -> list[str]:
    """The ids of rows as their sender would write them."""
    if message.text_ids:
        texts = message.text_ids
        return [texts[row] for row in rows]
    # Each access to the field copies all of it.
    raw = message.event_ids
    return [_to_text(raw[16 * row : 16 * row + 16]) for row in rows]


def _to_text(raw: bytes) -> str:
    """A UUID as text. Three times as fast as the standard library's."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Interned(dict[Any, int]):
    """Numbers entries in the order of their first lookup."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number


def index_array(positions: Sequence[int]) -> Indexes:
    # Through the standard library's array, which reads a list in a third of the time.
    return np.frombuffer(array("I", positions), np.uint32)
