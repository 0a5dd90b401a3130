"""Folds retracted rows: they are folded as when they counted, and the result is subtracted.

Slots without an inverse keep their number; the months that may have changed are returned, to be rebuilt from
the remaining events.
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
from meterline_aggregate.kinds.slots.slot import Fixed
from meterline_aggregate.kinds.slots.table import SLOTS
from meterline_aggregate.windows.calendar import Grain

Key = tuple[int, ...]

_WITHOUT_INVERSE = np.array([not slot.inverse for slot in SLOTS])


def fold_corrections(messages: Sequence[Message], fold: Callable[[Sequence[Message]], Changes]) -> Changes:
    """The changes of all rows; `fold` is applied to added and to retracted rows separately."""
    added = fold([message.only(~message.retracted_rows) for message in messages])
    taken = fold([message.only(message.retracted_rows) for message in messages])
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
    """The added or the retracted rows, by key."""

    def __init__(self, keys: Sequence[Int64s], event_count: Int64s, numbers: Numbers) -> None:
        columns = zip(*(column.tolist() for column in keys), strict=True)
        self.rows: dict[Key, int] = {key: row for row, key in enumerate(columns)}
        self.event_count = event_count.tolist()
        self.slot = numbers.slot.tolist()
        self.units = numbers.units
        self.scale = numbers.scale.tolist()

    def at(self, key: Key) -> tuple[int, Fixed | None]:
        """Events and number; (0, None) for a key without a row."""
        row = self.rows.get(key)
        if row is None:
            return 0, None
        units = self.units[row]
        return self.event_count[row], None if units is None else Fixed(units, self.scale[row])

    def slot_of(self, key: Key) -> int | None:
        row = self.rows.get(key)
        return None if row is None else self.slot[row]


def _less(keys: Sequence[Key], added: _Side, taken: _Side) -> tuple[Int64s, Numbers]:
    """Events and numbers of each key: added minus retracted."""
    counts: list[int] = []
    slots: list[int] = []
    numbers: list[Fixed | None] = []
    for key in keys:
        (events, number), (gone, gone_number) = added.at(key), taken.at(key)
        # Each key is in at least one of the two.
        slot = added.slot_of(key)
        code = taken.slot[taken.rows[key]] if slot is None else slot
        counts.append(events - gone)
        slots.append(code)
        numbers.append(SLOTS[code].less(number, gone_number))
    return np.array(counts, np.int64), Numbers(
        np.array(slots, np.int64),
        [None if number is None else number.units for number in numbers],
        np.array([0 if number is None else number.scale for number in numbers], np.int64),
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
    """A batch that adds and retracts in the same slice has one row there, even if the result is 0."""
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
    months = _WITHOUT_INVERSE[windows.numbers.slot]
    months &= (windows.grain == Grain.MONTH) & (windows.group_id == TOTAL)
    sources = _WITHOUT_INVERSE[given.numbers.slot]
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
