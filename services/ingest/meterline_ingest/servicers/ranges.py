"""Ranges of time, out of requests."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from meterline.errors import InvalidArgumentError
from meterline_protos.common.v1 import types_pb2


def from_proto(wanted: types_pb2.TimeRange | None) -> tuple[datetime | None, datetime | None]:
    """(start, end), None where it is open."""
    if wanted is None:
        return None, None
    start = _moment(wanted.start_time) if wanted.HasField("start_time") else None
    end = _moment(wanted.end_time) if wanted.HasField("end_time") else None
    return start, end


def _moment(timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgumentError("range", "times from year 1 to 9999") from None
