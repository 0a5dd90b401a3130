"""Builds the message UsageWindowsChanged."""

from __future__ import annotations

from collections.abc import Sequence

from meterline.bus.subjects import USAGE_WINDOW
from meterline.clock import to_datetime
from meterline.decimals import to_text
from meterline.telemetry import traceparent
from meterline.transactions.unit_of_work import Transaction
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2

from meterline_aggregate.announcing.store import Month
from meterline_aggregate.windows.calendar import Grain, end_of


def emit_windows(transaction: Transaction, months: Sequence[Month]) -> None:
    """Publishes month windows in one message."""
    fact = events_pb2.UsageWindowsChanged(windows=[_window(month) for month in months])
    transaction.emit(USAGE_WINDOW.subject, fact)


def _window(month: Month) -> events_pb2.UsageWindow:
    window = events_pb2.UsageWindow(
        tenant_id=month.tenant_id,
        meter=month.meter,
        value=to_text(month.value),
        event_count=month.event_count,
        revision=month.revision,
        aggregation=types_pb2.Aggregation.ValueType(month.aggregation),
        trace=traceparent.to_proto(month.traceparent),
    )
    window.start_time.FromDatetime(to_datetime(month.start_us))
    window.end_time.FromDatetime(to_datetime(end_of(Grain.MONTH, month.time_zone, month.start_us)))
    return window
