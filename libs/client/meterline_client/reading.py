"""A columnar `ReportRequest` back into rows: to send it in smaller parts, and to name the events that were
refused, also when all that is left of them is what the spool holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError
from meterline_protos.ingest.v1 import capture_pb2

from meterline_client.events import Dimensions, Properties, Quantities, Row
from meterline_client.packing import unpack_int64, unpack_uint32
from meterline_client.quantities import reduced

_ID_BYTES = 16

Value = TypeVar("Value")


def decode(payload: bytes) -> tuple[str, list[Row]]:
    """The source and the rows, in order. ValueError when `payload` is no well-formed request."""
    try:
        request = capture_pb2.ReportRequest.FromString(payload)
    except DecodeError as error:
        raise ValueError("not a request") from error
    columns = request.columns
    times = unpack_int64(columns.times_us)
    count = len(times)
    ids: Sequence[bytes | str] = columns.text_ids or _uuids(columns.event_ids)
    rows: list[Row] = []
    quantities: list[Quantities] = [{} for _ in range(count)]
    for column in columns.quantities:
        _spread(column, quantities)
    sets: list[Dimensions] = [tuple(sorted(one.values.items())) for one in columns.dimension_sets]
    property_sets: list[Properties] = [tuple(sorted(one.values.items())) for one in columns.property_sets]
    rows.extend(
        zip(
            ids,
            _column(columns.tenants or [request.tenant_id], columns.tenant_index, count),
            _column(columns.types, columns.type_index, count),
            _column(columns.subjects, columns.subject_index, count),
            _column(sets or [()], columns.dimension_set_index, count),
            times,
            quantities,
            [None] * count,
            _column(property_sets or [()], columns.property_set_index, count),
            strict=True,
        )
    )
    return request.source, rows


def _uuids(packed: bytes) -> list[bytes | str]:
    return [packed[start : start + _ID_BYTES] for start in range(0, len(packed), _ID_BYTES)]


def _column(values: Sequence[Value], index: bytes, count: int) -> list[Value]:
    positions = unpack_uint32(index) if index else [0] * count
    try:
        return [values[position] for position in positions]
    except IndexError as error:
        raise ValueError("an index points beyond its dictionary") from error


def _spread(column: capture_pb2.QuantityColumn, into: list[Quantities]) -> None:
    present = column.present or b"\1" * len(into)
    for held, unit, is_present in zip(into, unpack_int64(column.units), present, strict=True):
        if is_present:
            held[column.name] = reduced(unit, column.scale)
