"""Folding rows that are taken away: as they were folded when they counted, and then the other way round.

Counts and sums take the inverse. Neither a maximum nor a set of members can, so these keep what they have,
and the months that may have changed are named, to be found anew from the events that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from meterline_aggregate.folding.rules.changes import (
    Changes,
    ContributionChanges,
    Int64s,
    Numbers,
    Rebuilds,
    WindowChanges,
)
from meterline_aggregate.folding.rules.rows import TOTAL, Batch, Message
from meterline_aggregate.meters.rules.definitions import Aggregation
from meterline_aggregate.windows.calendar import Grain

Key = tuple[int, ...]

_FOUND_ANEW = (Aggregation.MAX, Aggregation.UNIQUE)


def fold_corrections(messages: Sequence[Message], fold: Callable[[Sequence[Message]], Changes]) -> Changes:
    """What all rows change together; `fold` folds those of one kind."""
    added = fold([message.only(~message.gone) for message in messages])
    taken = fold([message.only(message.gone) for message in messages])
    batches = [batch for message in messages for batch in message.batches]
    return Changes(
        batches,
        _windows(added.windows, taken.windows, batches),
        added.members,
        _contributions(added.contributions, taken.contributions, batches),
        _totals(added.totals, taken.totals),
        _rebuilds(taken),
    )


class _Side:
    """The rows of one of the two, by key."""

    def __init__(self, keys: Sequence[Int64s], event_count: Int64s, numbers: Numbers) -> None:
        columns = zip(*(column.tolist() for column in keys), strict=True)
        self.rows: dict[Key, int] = {key: row for row, key in enumerate(columns)}
        self.event_count = event_count.tolist()
        self.aggregation = numbers.aggregation.tolist()
        self.units = numbers.units
        self.scale = numbers.scale.tolist()

    def number(self, row: int | None) -> tuple[int, int | None, int]:
        """Events, units and scale; nothing for a key that this side has not."""
        return (0, None, 0) if row is None else (self.event_count[row], self.units[row], self.scale[row])


def _less(keys: Sequence[Key], added: _Side, taken: _Side) -> tuple[Int64s, Numbers]:
    """Events and values of each key, what is taken away subtracted."""
    counts: list[int] = []
    numbers: list[tuple[int, int | None, int]] = []
    for key in keys:
        mine, theirs = added.rows.get(key), taken.rows.get(key)
        events, units, scale = added.number(mine)
        gone, gone_units, gone_scale = taken.number(theirs)
        counts.append(events - gone)
        aggregation = taken.aggregation[theirs] if mine is None and theirs is not None else None
        aggregation = added.aggregation[mine] if mine is not None else aggregation
        if aggregation != Aggregation.MAX:
            finest = max(scale, gone_scale)
            units = (units or 0) * 10 ** (finest - scale) - (gone_units or 0) * 10 ** (finest - gone_scale)
            scale = finest
        numbers.append((aggregation or 0, units, scale))
    return np.array(counts, np.int64), Numbers(
        np.array([aggregation for aggregation, _, _ in numbers], np.int64),
        [units for _, units, _ in numbers],
        np.array([scale for _, _, scale in numbers], np.int64),
    )


def _window_keys(windows: WindowChanges) -> list[Int64s]:
    return [windows.grain, windows.tenant_id, windows.meter_id, windows.start_us, windows.group_id]


def _windows(added: WindowChanges, taken: WindowChanges, batches: Sequence[Batch]) -> WindowChanges:
    sides = [_Side(_window_keys(one), one.event_count, one.numbers) for one in (added, taken)]
    keys = sorted({key for side in sides for key in side.rows})
    event_count, numbers = _less(keys, *sides)
    latest = [
        max(
            (
                one.last_batch[side.rows[key]]
                for one, side in zip((added, taken), sides, strict=True)
                if key in side.rows
            ),
            key=lambda position: batches[position].batch_id,
        )
        for key in keys
    ]
    grain, tenant_id, meter_id, start_us, group_id = _columns(keys, 5)
    last_batch = np.array(latest, np.int64)
    return WindowChanges(grain, tenant_id, meter_id, start_us, group_id, event_count, last_batch, numbers)


def _contributions(
    added: ContributionChanges, taken: ContributionChanges, batches: Sequence[Batch]
) -> ContributionChanges:
    """A batch that adds and takes in the same hour has one row there, also where it comes to nothing."""
    sides = [
        _Side((one.tenant_id, one.meter_id, one.start_us, one.batch), one.event_count, one.numbers)
        for one in (added, taken)
    ]
    keys = sorted(
        {key for side in sides for key in side.rows}, key=lambda key: (*key[:3], batches[key[3]].batch_id)
    )
    event_count, numbers = _less(keys, *sides)
    tenant_id, meter_id, start_us, batch = _columns(keys, 4)
    return ContributionChanges(tenant_id, meter_id, start_us, batch, event_count, numbers)


def _columns(keys: Sequence[Key], width: int) -> Int64s:
    return np.array(keys, np.int64).reshape(-1, width).T


def _totals(added: dict[int, int], taken: dict[int, int]) -> dict[int, int]:
    return {
        tenant_id: added.get(tenant_id, 0) - taken.get(tenant_id, 0)
        for tenant_id in added.keys() | taken.keys()
    }


def _rebuilds(taken: Changes) -> Rebuilds:
    windows, given = taken.windows, taken.contributions
    months = np.isin(windows.numbers.aggregation, _FOUND_ANEW)
    months &= (windows.grain == Grain.MONTH) & (windows.group_id == TOTAL)
    sources = np.isin(given.numbers.aggregation, _FOUND_ANEW)
    return Rebuilds(
        sorted(
            zip(
                *(
                    column[months].tolist()
                    for column in (windows.tenant_id, windows.meter_id, windows.start_us)
                ),
                strict=True,
            )
        ),
        sorted(
            zip(
                *(
                    column[sources].tolist()
                    for column in (given.tenant_id, given.meter_id, given.start_us, given.batch)
                ),
                strict=True,
            )
        ),
    )
