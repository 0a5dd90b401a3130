"""Folds one event after the other with Python integers: small batches, and whatever does not fit `vectors`.

It defines the meaning of folding; tests compare `vectors` with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from meterline_aggregate.folding.rules.changes import (
    Changes,
    ContributionChanges,
    Int64s,
    MemberChanges,
    Numbers,
    WindowChanges,
)
from meterline_aggregate.folding.rules.digests import digest
from meterline_aggregate.folding.rules.rows import EVERY_EVENT, SUBJECT, TOTAL, Batch, Message, Series, Target
from meterline_aggregate.kinds.slots.slot import Fixed, Slot
from meterline_aggregate.windows.calendar import Grain, windows_at


class WindowKey(NamedTuple):
    grain: int
    tenant_id: int
    meter_id: int
    start_us: int
    group_id: int


class ContributionKey(NamedTuple):
    tenant_id: int
    meter_id: int
    start_us: int
    batch: int


@dataclass(slots=True)
class Number:
    """The state that events add up to, for one target."""

    slot: Slot
    events: int = 0
    units: int = 0
    scale: int = 0
    last_batch: int = -1

    def add(self, value: Fixed, batch_rank: int) -> None:
        self.last_batch = max(self.last_batch, batch_rank)
        scale = max(self.scale, value.scale)
        theirs = value.units * 10 ** (scale - value.scale)
        if self.events:
            theirs = self.slot.merge(self.units * 10 ** (scale - self.scale), theirs)
        self.units = theirs
        self.scale = scale
        self.events += 1


@dataclass(slots=True)
class _State:
    windows: dict[WindowKey, Number] = field(default_factory=dict)
    members: set[tuple[WindowKey, bytes]] = field(default_factory=set)
    contributions: dict[ContributionKey, Number] = field(default_factory=dict)
    totals: dict[int, int] = field(default_factory=dict)


class Event(NamedTuple):
    series: Series
    subject: str
    time_us: int
    batch: int
    values: dict[str, Fixed]

    def measured(self, target: Target) -> Fixed | None:
        """The event's value for `target`; None when the event lacks what the target measures."""
        if target.measure == EVERY_EVENT:
            return Fixed(0, 0)
        if target.measure == SUBJECT:
            return Fixed(0, 0) if self.subject else None
        return self.values.get(target.measure)


def events_of(message: Message, first_batch: int) -> Iterator[Event]:
    """The rows of a message; `first_batch` is the position of its first batch among all batches."""
    owners = [first_batch + n for n, batch in enumerate(message.batches) for _ in range(batch.rows)]
    columns = {
        name: (quantity.units.tolist(), quantity.scale, quantity.present)
        for name, quantity in message.quantities.items()
    }
    index = zip(
        message.series_index.tolist(), message.subject_index.tolist(), message.times_us.tolist(), strict=True
    )
    for row, (series, subject, time_us) in enumerate(index):
        values = {
            name: Fixed(units[row], scale)
            for name, (units, scale, present) in columns.items()
            if present is None or present[row]
        }
        yield Event(message.series[series], message.subjects[subject], time_us, owners[row], values)


def fold_plain(messages: Sequence[Message]) -> Changes:
    batches = [batch for message in messages for batch in message.batches]
    by_rank = sorted(range(len(batches)), key=lambda n: batches[n].batch_id)
    rank_of = {n: rank for rank, n in enumerate(by_rank)}
    state = _State()
    first_batch = 0
    for message in messages:
        for event in events_of(message, first_batch):
            _add(state, event, rank_of[event.batch])
        first_batch += len(message.batches)
    return Changes(
        batches,
        _windows(state.windows, by_rank),
        _members(state.members),
        _contributions(state.contributions, batches),
        state.totals,
    )


def _add(state: _State, event: Event, batch_rank: int) -> None:
    tenant_id = event.series.tenant_id
    state.totals[tenant_id] = state.totals.get(tenant_id, 0) + 1
    if not event.series.targets:
        return
    starts = windows_at(event.series.zone, event.time_us)
    for target in event.series.targets:
        value = event.measured(target)
        if value is None:
            continue
        for grain, start_us in zip(Grain, starts, strict=True):
            key = WindowKey(grain, tenant_id, target.meter_id, start_us, target.group_id)
            state.windows.setdefault(key, Number(target.slot)).add(value, batch_rank)
            if target.slot.has_members:
                state.members.add((key, target.member or digest(event.subject)))
        if target.group_id == TOTAL:
            place = ContributionKey(tenant_id, target.meter_id, starts.lineage, event.batch)
            state.contributions.setdefault(place, Number(target.slot)).add(value, batch_rank)


def _numbers(numbers: Sequence[Number]) -> Numbers:
    return Numbers(
        np.array([number.slot.code for number in numbers], np.int64),
        [number.units for number in numbers],
        np.array([number.scale for number in numbers], np.int64),
    )


def _columns(keys: Sequence[tuple[int, ...]], width: int) -> Int64s:
    return np.array(keys, np.int64).reshape(-1, width).T


def _windows(found: dict[WindowKey, Number], by_rank: Sequence[int]) -> WindowChanges:
    keys = sorted(found)
    numbers = [found[key] for key in keys]
    grain, tenant_id, meter_id, start_us, group_id = _columns(keys, 5)
    return WindowChanges(
        grain,
        tenant_id,
        meter_id,
        start_us,
        group_id,
        np.array([number.events for number in numbers], np.int64),
        np.array([by_rank[number.last_batch] for number in numbers], np.int64),
        _numbers(numbers),
    )


def _members(found: set[tuple[WindowKey, bytes]]) -> MemberChanges:
    pairs = sorted(found)
    grain, tenant_id, meter_id, start_us, group_id = _columns([key for key, _ in pairs], 5)
    members = np.frombuffer(b"".join(member for _, member in pairs), "V16")
    return MemberChanges(grain, tenant_id, meter_id, start_us, group_id, members)


def _contributions(found: dict[ContributionKey, Number], batches: Sequence[Batch]) -> ContributionChanges:
    keys = sorted(found, key=lambda key: (*key[:3], batches[key.batch].batch_id))
    numbers = [found[key] for key in keys]
    tenant_id, meter_id, start_us, batch = _columns(keys, 4)
    events = np.array([number.events for number in numbers], np.int64)
    return ContributionChanges(tenant_id, meter_id, start_us, batch, events, _numbers(numbers))
