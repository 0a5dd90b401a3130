"""Publisher that computes calendars for any representable time."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from meterline.rpc import fields
from meterline_publisher.main import main


def _any_instant(field: str, stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


if __name__ == "__main__":
    fields.instant = _any_instant
    main()
