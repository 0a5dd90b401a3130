"""The replica of usage: what the aggregate service tells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC
from decimal import Decimal, InvalidOperation

from google.protobuf.message import DecodeError
from meterline.bus.consumer import Delivery
from meterline.db.unit_of_work import Transaction
from meterline.errors import Never
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2

from meterline_publisher import traces
from meterline_publisher.domain.assessment import MeterUsage
from meterline_publisher.domain.money import check_size
from meterline_publisher.repository import usage
from meterline_publisher.repository.usage import UsageWindow


async def handle_windows(transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
    """Applies `usage.window`. An older revision than the known one changes nothing."""
    windows = [window for delivery in deliveries for window in _windows(delivery.data)]
    if windows:
        await usage.upsert(transaction.connection, _newest(windows))


def _newest(windows: Iterable[UsageWindow]) -> Iterable[UsageWindow]:
    """The greatest revision of each window: one statement cannot change a row twice."""
    found: dict[object, UsageWindow] = {}
    for window in windows:
        known = found.get(window.key)
        if known is None or known.usage.revision < window.usage.revision:
            found[window.key] = window
    return found.values()


def _windows(data: bytes) -> list[UsageWindow]:
    """Raises Never for a message that is no such fact."""
    try:
        fact = events_pb2.UsageWindowsChanged.FromString(data)
        return [_window(window) for window in fact.windows]
    except (DecodeError, ValueError, InvalidOperation) as error:
        raise Never(f"not a UsageWindowsChanged: {error}") from error


def _window(window: events_pb2.UsageWindow) -> UsageWindow:
    value = Decimal(window.value)
    check_size(value)
    start = window.start_time.ToDatetime(tzinfo=UTC)
    end = window.end_time.ToDatetime(tzinfo=UTC)
    if not window.meter or start >= end or window.revision < 1:
        raise ValueError("a window needs a meter, a stretch of time and a revision")
    aggregation = types_pb2.Aggregation.Name(window.aggregation).removeprefix("AGGREGATION_").lower()
    return UsageWindow(
        window.tenant_id,
        start,
        end,
        MeterUsage(
            window.meter,
            value,
            window.event_count,
            window.revision,
            aggregation,
            traces.to_text(window.trace),
        ),
    )
