"""Computes windows as they would be after adding and retracting events. Stores nothing."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from meterline.decimals import EXACT, of_units, to_units
from meterline.errors import InvalidArgumentError, NotFoundError
from meterline.tenants import Tenant, TenantReplica
from meterline.transactions.unit_of_work import Transaction, UnitOfWork

from meterline_aggregate.folding.counted import drop_uncounted
from meterline_aggregate.folding.decoding import Accepted, GarbledError, decode
from meterline_aggregate.folding.rules.changes import Changes
from meterline_aggregate.folding.rules.dispatch import fold
from meterline_aggregate.folding.rules.origins import with_targets
from meterline_aggregate.folding.rules.retractions import Retractions
from meterline_aggregate.folding.rules.rows import TOTAL, Message
from meterline_aggregate.folding.series import SeriesBook, UnknownTenantError, View
from meterline_aggregate.kinds.kind import NO_EVENTS, Kind, State
from meterline_aggregate.kinds.slots.slot import Fixed
from meterline_aggregate.meters import store as meters_store
from meterline_aggregate.meters.rules.definitions import Meter
from meterline_aggregate.rebuilds import store as rebuilds_store
from meterline_aggregate.rebuilds.raw_events import RawEvents, for_meter
from meterline_aggregate.rebuilds.store import Month
from meterline_aggregate.usage.rules.tally import Tally, WindowKey, number_in, rows_of
from meterline_aggregate.usage.store import previews
from meterline_aggregate.windows.calendar import Grain, windows_at

MOST_ROWS: Final = 10_000
# Most events of a month that a preview reads again; a larger month needs a rebuild.
MOST_EVENTS: Final = 50_000

_BATCHES: Final = 500
States = Mapping[WindowKey, State]


@dataclass(frozen=True, slots=True)
class WindowPreview:
    """A window as it is and as it would be; `after` is None when only a rebuild can compute it."""

    meter: str
    grain: Grain
    start_us: int
    before: Decimal
    after: Decimal | None
    events_before: int
    events_after: int

    @property
    def delta(self) -> Decimal | None:
        return None if self.after is None else EXACT.subtract(self.after, self.before)


@dataclass(frozen=True, slots=True)
class _Basis:
    """The input of a preview: the rows, their changes, and the current state.

    rows: the rows of `changes.windows` that are shown
    fresh: numbers of new members by window
    """

    message: Message
    changes: Changes
    rows: Mapping[int, WindowKey]
    before: States
    fresh: Mapping[WindowKey, int]
    meters: Mapping[int, Meter]

    def was(self, key: WindowKey) -> State:
        return self.before.get(key, NO_EVENTS)


class Previews:
    """Transactions here are never committed."""

    def __init__(
        self, unit_of_work: UnitOfWork, tenants: TenantReplica, book: SeriesBook, raw: RawEvents
    ) -> None:
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._book = book
        self._raw = raw

    async def preview(self, slug: str, events: bytes) -> tuple[Tenant, list[WindowPreview]]:
        """Previews of the days and months that the rows of an EventsAccepted touch, by meter, grain and time.

        Raises InvalidArgumentError, NotFoundError, UnavailableError.
        """
        tenant = await self._tenants.get(slug)
        accepted = _decode(tenant, events)
        async with self._unit_of_work.begin(tenants=[tenant.tenant_id]) as tx:
            basis = await self._basis(tx, tenant, accepted)
        recomputed: dict[WindowKey, State] = {}
        for tenant_id, meter_id, start_us in basis.changes.rebuilds.months:
            month = Month(tenant_id, slug, tenant.time_zone, meter_id, start_us)
            recomputed |= await self._recompute(basis, month)
        return tenant, sorted(
            _previews(basis, recomputed, tenant), key=lambda one: (one.meter, one.grain, one.start_us)
        )

    async def _basis(self, tx: Transaction, tenant: Tenant, accepted: Accepted) -> _Basis:
        try:
            # Only totals are shown. Looking up groups would create ones for events that may never come.
            (series,) = await self._book.look_up(tx, [accepted.fact], view=View(by_group=False))
        except UnknownTenantError as error:
            raise NotFoundError("tenant", tenant.slug) from error
        (message,) = await drop_uncounted(tx, [accepted], [accepted.with_series(series)])
        message = _without(message, self._book.unknown)
        changes = fold([message])
        rows = rows_of(changes.windows)
        before = await previews.totals_at(tx.connection, tenant.tenant_id, rows.values())
        fresh = await previews.count_new_members(tx.connection, tenant.tenant_id, changes.members)
        meters = await meters_store.everything(tx.connection)
        known = {meter.meter_id: meter for meter in meters if isinstance(meter, Meter)}
        return _Basis(message, changes, rows, before, fresh, known)

    async def _recompute(self, basis: _Basis, month: Month) -> States:
        """The month's windows, folded from all events that would remain; empty when there are too many."""
        if basis.was(WindowKey(Grain.MONTH, month.meter_id, month.start_us)).events > MOST_EVENTS:
            return {}
        meter = basis.meters[month.meter_id]
        async with self._unit_of_work.begin(tenants=[month.tenant_id]) as tx:
            sources = await rebuilds_store.retracting(tx.connection, month)
            batch_ids = await rebuilds_store.batches_of(tx.connection, month)
        retractions, tally = Retractions(), Tally(meter.kind.slot)
        own = _in_total(for_meter(basis.message, month.meter_id))
        retractions.note(own)
        for first in range(0, len(sources), _BATCHES):
            async for message in self._messages(month, meter, sources[first : first + _BATCHES]):
                retractions.note(message)
        tally.add(fold([retractions.remove(own)]))
        for first in range(0, len(batch_ids), _BATCHES):
            async for message in self._messages(month, meter, batch_ids[first : first + _BATCHES]):
                tally.add(fold([retractions.remove(message)]))
        return {key: tally.state(key) for key in basis.rows.values() if _is_of(key, month)}

    async def _messages(
        self, month: Month, meter: Meter, batch_ids: Sequence[uuid.UUID]
    ) -> AsyncIterator[Message]:
        async for page in self._raw.pages(month, meter, batch_ids):
            async with self._unit_of_work.begin(tenants=[month.tenant_id]) as tx:
                message = await self._raw.to_message(tx, month.tenant_id, meter, page, by_group=False)
            yield _in_total(message)


def _decode(tenant: Tenant, events: bytes) -> Accepted:
    try:
        accepted = decode(events)
    except GarbledError as error:
        raise InvalidArgumentError("events", str(error)) from error
    if any(series.tenant_id != tenant.tenant_id for series in accepted.fact.series):
        raise InvalidArgumentError("events", "all rows must be of the tenant")
    if len(accepted.times_us) > MOST_ROWS:
        raise InvalidArgumentError("events", f"at most {MOST_ROWS} rows")
    return accepted


def _without(message: Message, unknown: Collection[int]) -> Message:
    """The message without targets of these meters, whose figures cannot be computed here."""
    if not unknown:
        return message
    series = [with_targets(one, lambda meter_id: meter_id not in unknown) for one in message.series]
    return replace(message, series=series)


def _in_total(message: Message) -> Message:
    """The message without targets of groups."""
    series = [
        replace(one, targets=tuple(target for target in one.targets if target.group_id == TOTAL))
        for one in message.series
    ]
    return replace(message, series=series)


def _is_of(key: WindowKey, month: Month) -> bool:
    return key.meter_id == month.meter_id and windows_at(month.zone, key.start_us).month == month.start_us


def _previews(basis: _Basis, recomputed: States, tenant: Tenant) -> Iterator[WindowPreview]:
    rebuilt = {(meter_id, start_us) for _, meter_id, start_us in basis.changes.rebuilds.months}
    for row, key in basis.rows.items():
        before, meter = basis.was(key), basis.meters[key.meter_id]
        events_after = before.events + int(basis.changes.windows.event_count[row])
        after: State | None
        if (key.meter_id, windows_at(tenant.time_zone, key.start_us).month) in rebuilt:
            after = recomputed.get(key)
            if after is None or after.events != events_after:
                # The numbers of events differ: some events are still in transit.
                after = None
        else:
            after = _after(basis, row, key, meter.kind)
        yield WindowPreview(
            meter.definition.name,
            key.grain,
            key.start_us,
            meter.kind.shown(before),
            None if after is None else meter.kind.shown(after),
            before.events,
            events_after,
        )


def _after(basis: _Basis, row: int, key: WindowKey, kind: Kind) -> State:
    """The window's state after merging the changes of its row."""
    before = basis.was(key)
    change = number_in(basis.changes.windows, row)
    if kind.slot.has_members:
        change = Fixed(basis.fresh.get(key, 0), 0)
    number = None if before.number is None else Fixed(*to_units(before.number))
    if not before.events and kind.slot.empty is None:
        # The stored number is of events that were retracted; the pending rebuild deletes it.
        number = None
    merged = kind.slot.merged(number, change)
    events = before.events + int(basis.changes.windows.event_count[row])
    return State(events, None if merged is None else of_units(merged.units, merged.scale))
