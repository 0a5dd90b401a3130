"""The first step of folding: aggregates the rows of a message into cells of one batch, series and minute.

Every window of every zone begins with a minute, so all other figures can be computed from cells. A message
of live traffic has a few dozen cells, whatever its number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meterline_aggregate.folding.rules.layout import Layout
from meterline_aggregate.folding.rules.rows import SUBJECT, Flags, Message, Quantity
from meterline_aggregate.kinds.grouping import (
    LIMIT,
    UnsuitableError,
    group,
    magnitude,
    packed,
    unpacked,
    widest,
)
from meterline_aggregate.kinds.slots.slot import Slot, SlotCells
from meterline_aggregate.windows.calendar import MINUTE_US

Int64s = npt.NDArray[np.int64]


@dataclass(slots=True)
class Cells:
    """counts: events that have a measure (one row each, as in the layout), by cell (one column each)
    numbers: of the slots that fold columns; undefined where there are no events
    """

    series: Int64s
    batch: Int64s
    minute: Int64s
    counts: Int64s
    numbers: dict[Slot, SlotCells]

    def __len__(self) -> int:
        return len(self.series)


def make_cells(messages: Sequence[Message], layout: Layout, scales: Sequence[int]) -> Cells:
    """The cells of all messages; quantities are converted to `scales`, one per measure of the layout.

    Raises UnsuitableError when a value is too wide at its scale.
    """
    parts = []
    first_batch = 0
    for message in messages:
        if len(message):
            parts.append(_message_cells(message, layout, scales, first_batch))
        first_batch += len(message.batches)
    if len(parts) == 1:
        return parts[0]
    return Cells(
        np.concatenate([part.series for part in parts]),
        np.concatenate([part.batch for part in parts]),
        np.concatenate([part.minute for part in parts]),
        np.concatenate([part.counts for part in parts], axis=1),
        {slot: cells.joined([part.numbers[slot] for part in parts]) for slot, cells in layout.cells_of_slot},
    )


def _message_cells(message: Message, layout: Layout, scales: Sequence[int], first_batch: int) -> Cells:
    minutes = message.times_us // MINUTE_US
    earliest = int(minutes.min())
    span = int(minutes.max()) - earliest + 1
    sizes = (len(message.series), span)
    keys = (message.series_index.astype(np.int64), sizes[0]), (minutes - earliest, span)
    if len(message.batches) == 1:
        grouping = group(*packed(*keys))
        series, minute = unpacked(grouping.keys, span)
        batch = np.zeros_like(series)
    else:
        owners = np.repeat(np.arange(len(message.batches)), [batch.rows for batch in message.batches])
        grouping = group(*packed((owners, len(message.batches)), *keys))
        batch, series, minute = unpacked(grouping.keys, *sizes)
    counts = np.zeros((len(layout.measures), len(series)), np.int64)
    counts[0] = grouping.counts()
    numbers = {slot: cells(len(layout.measures), len(series)) for slot, cells in layout.cells_of_slot}
    for rank, present, units, bound in _measured(message, layout, scales):
        counts[rank] = counts[0] if present is None else grouping.sums(present.astype(np.int64))
        if units is not None:
            for slot in layout.slots_of_measure[rank]:
                numbers[slot].put(rank, grouping, units, present, bound)
    return Cells(
        layout.positions(message)[series],
        batch + first_batch,
        minute + earliest,
        counts,
        numbers,
    )


def _measured(
    message: Message, layout: Layout, scales: Sequence[int]
) -> Iterator[tuple[int, Flags | None, Int64s | None, int]]:
    """For each measure but the first: its rank, which rows have it, their units, and a bound of their sum."""
    for rank, measure in enumerate(layout.measures[1:], 1):
        if measure == SUBJECT:
            named = np.array([bool(subject) for subject in message.subjects], np.bool_)
            yield rank, None if named.all() else named[message.subject_index], None, 0
        elif quantity := message.quantities.get(measure):
            units, bound = _rescaled(quantity, scales[rank])
            yield rank, quantity.present, units, bound


def _rescaled(quantity: Quantity, scale: int) -> tuple[Int64s, int]:
    factor = 10 ** (scale - quantity.scale)
    bound = magnitude(quantity.units) * factor
    if bound > LIMIT and factor > 1 and widest(quantity.units) * factor > LIMIT:
        raise UnsuitableError("a value is too wide")
    return (quantity.units if factor == 1 else quantity.units * factor), bound
