"""Rebuilds single events as they were received."""

from __future__ import annotations

import uuid

from meterline.decimals import units_in_full
from meterline_protos.ingest.v1 import capture_pb2

from meterline_ingest.capture.call import Submission
from meterline_ingest.event.columns import Columns


def event(submission: Submission, row: int) -> capture_pb2.Event:
    """One event of a call. For a call with rows it is the received message itself, in the form of `wire`."""
    if submission.columns is None:
        return submission.rows[row]
    return _from_columns(submission.columns, row, submission.tenant_id)


def to_bytes(message: capture_pb2.Event) -> bytes:
    """The same bytes for the same event, every time."""
    return message.SerializeToString(deterministic=True)


def _from_columns(columns: Columns, row: int, tenant_id: str) -> capture_pb2.Event:
    """The event as its sender would have written it as a row."""
    tenant = columns.tenants[columns.tenant_index[row]]
    message = capture_pb2.Event(
        id=_id(columns, row),
        tenant_id="" if tenant == tenant_id else tenant,
        type=columns.types[columns.type_index[row]],
        subject=columns.subjects[columns.subject_index[row]],
        dimensions=dict(columns.dimension_sets[columns.dimension_index[row]]),
        quantities={
            column.name: units_in_full(int(column.units[row]), column.scale)
            for column in columns.quantities
            if column.present is None or column.present[row]
        },
        properties=dict(columns.property_sets[columns.property_index[row]]),
    )
    seconds, rest = divmod(int(columns.times_us[row]), 1_000_000)
    # Not with a method of Timestamp, which refuses times that a bad event may have. Zero is assigned too:
    # an unset time would count as missing.
    message.time.seconds, message.time.nanos = seconds, rest * 1_000
    return message


def _id(columns: Columns, row: int) -> str:
    text = None if columns.text_ids is None else columns.text_ids[row]
    return str(uuid.UUID(bytes=columns.ids[row].tobytes())) if text is None else text
