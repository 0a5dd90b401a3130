"""The replica of usage, from aggregate's messages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, timedelta
from decimal import Decimal, InvalidOperation

from google.protobuf.message import DecodeError
from meterline.bounds import MIN_TENANT_ID
from meterline.clock import Clock, to_datetime
from meterline.consuming.delivery import Delivery
from meterline.consuming.parts import part_of
from meterline.db.pool import Connection, begin
from meterline.errors import Poison
from meterline.telemetry import traceparent
from meterline.transactions.unit_of_work import Transaction
from meterline_protos.aggregate.v1 import usage_pb2
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2

from meterline_publisher.billing.money import check_size
from meterline_publisher.gaps import store as gaps_store
from meterline_publisher.usage import store
from meterline_publisher.usage.rules import MeterUsage
from meterline_publisher.usage.store import UsageWindow


class UsageWindows:
    """Stores month windows from messages and answers, and records usage that is too late to be billed.

    close_grace: how long after its end a period is closed automatically
    billed: names of configured providers, as tenants may choose them; later usage of other tenants is held
    """

    def __init__(self, clock: Clock, close_grace: timedelta, billed: Collection[str] = ("",)) -> None:
        self._clock = clock
        self._close_grace = close_grace
        self._billed = billed

    async def handle(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        """Applies `usage.window`. A revision older than the stored one changes nothing. Raises Poison for a
        message of another kind, or with a window that cannot be billed, naming the message."""
        windows = [window for delivery in deliveries for window in _windows(delivery)]
        if windows:
            await begin(transaction.connection, {window.tenant_id for window in windows})
            await self.store(transaction.connection, _newest(windows))

    async def store(self, connection: Connection, windows: Collection[UsageWindow]) -> None:
        """Stores windows, each only if it is newer than the stored one."""
        await store.upsert(connection, windows)
        now = to_datetime(self._clock.now_us())
        keys = [window.key for window in windows]
        await gaps_store.note_late(connection, keys, now - self._close_grace, now, self._billed)


def _newest(windows: Iterable[UsageWindow]) -> Collection[UsageWindow]:
    """The greatest revision of each window, since one statement cannot change a row twice."""
    found: dict[object, UsageWindow] = {}
    for window in windows:
        known = found.get(window.key)
        if known is None or known.usage.revision < window.usage.revision:
            found[window.key] = window
    return found.values()


def split_windows(delivery: Delivery) -> Sequence[Delivery]:
    """Each window as its own message, so that an invalid one does not affect the others."""
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
        return [to_window(window.tenant_id, window.meter, window) for window in fact.windows]
    except (DecodeError, ValueError, OverflowError, InvalidOperation) as error:
        raise Poison(f"not a UsageWindowsChanged: {error}", [delivery.message_id]) from error


def to_window(tenant_id: int, meter: str, window: events_pb2.UsageWindow | usage_pb2.Window) -> UsageWindow:
    """A month window as stored, from a message or an answer. Raises ValueError, OverflowError or
    InvalidOperation for one that cannot be billed."""
    value = Decimal(window.value)
    check_size(value)
    start = window.start_time.ToDatetime(tzinfo=UTC)
    end = window.end_time.ToDatetime(tzinfo=UTC)
    if not meter or start >= end or window.revision < 1:
        raise ValueError("a window needs a meter, a stretch of time and a revision")
    if tenant_id < MIN_TENANT_ID or "\0" in meter:
        raise ValueError("a window needs a tenant, and a meter whose name can be stored")
    return UsageWindow(
        tenant_id,
        start,
        end,
        MeterUsage(
            meter,
            value,
            window.event_count,
            window.revision,
            _kind(window.aggregation),
            traceparent.to_text(window.trace),
        ),
    )


def _kind(aggregation: types_pb2.Aggregation.ValueType) -> str:
    """The name of a meter's kind, or its number if only newer releases know it: windows have absolute values,
    so they are billed whatever the kind."""
    if aggregation not in types_pb2.Aggregation.values():
        return str(int(aggregation))
    return types_pb2.Aggregation.Name(aggregation).removeprefix("AGGREGATION_").lower()
