"""The replica of usage: what the aggregate service tells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC
from decimal import Decimal, InvalidOperation

from google.protobuf.message import DecodeError
from meterline.bounds import MIN_TENANT_ID
from meterline.bus.delivery import Delivery
from meterline.bus.parts import part_of
from meterline.db.pool import begin
from meterline.db.scope import ALL_TENANTS
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
    """Applies `usage.window`. An older revision than the known one changes nothing. Raises Never for a
    message that is no such fact, or has a window that cannot be billed; it names the message."""
    windows = [window for delivery in deliveries for window in _windows(delivery)]
    if windows:
        # A message carries months of many tenants.
        await begin(transaction.connection, ALL_TENANTS)
        await usage.upsert(transaction.connection, _newest(windows))


def _newest(windows: Iterable[UsageWindow]) -> Iterable[UsageWindow]:
    """The greatest revision of each window: one statement cannot change a row twice."""
    found: dict[object, UsageWindow] = {}
    for window in windows:
        known = found.get(window.key)
        if known is None or known.usage.revision < window.usage.revision:
            found[window.key] = window
    return found.values()


def split_windows(delivery: Delivery) -> Sequence[Delivery]:
    """Each window as a message of its own: what is wrong with one says nothing of the others."""
    try:
        fact = events_pb2.UsageWindowsChanged.FromString(delivery.data)
    except DecodeError:
        return ()
    return [
        part_of(
            delivery,
            b"%d" % place,
            events_pb2.UsageWindowsChanged(windows=[window]).SerializeToString(),
        )
        for place, window in enumerate(fact.windows)
    ]


def _windows(delivery: Delivery) -> list[UsageWindow]:
    try:
        fact = events_pb2.UsageWindowsChanged.FromString(delivery.data)
        return [_window(window) for window in fact.windows]
    except (DecodeError, ValueError, OverflowError, InvalidOperation) as error:
        raise Never(f"not a UsageWindowsChanged: {error}", [delivery.message_id]) from error


def _window(window: events_pb2.UsageWindow) -> UsageWindow:
    value = Decimal(window.value)
    check_size(value)
    start = window.start_time.ToDatetime(tzinfo=UTC)
    end = window.end_time.ToDatetime(tzinfo=UTC)
    if not window.meter or start >= end or window.revision < 1:
        raise ValueError("a window needs a meter, a stretch of time and a revision")
    if window.tenant_id < MIN_TENANT_ID or "\0" in window.meter:
        raise ValueError("a window needs a tenant, and a meter whose name can be stored")
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
