"""Folds in columns: rows to cells (see `cells`), cells to windows, with numpy on 64-bit integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from meterline_aggregate.folding.rules.cells import Cells, make_cells
from meterline_aggregate.folding.rules.changes import (
    Changes,
    ContributionChanges,
    MemberChanges,
    Numbers,
    WindowChanges,
)
from meterline_aggregate.folding.rules.layout import Layout
from meterline_aggregate.folding.rules.members import fold_members
from meterline_aggregate.folding.rules.rows import TOTAL, Batch, Message
from meterline_aggregate.folding.rules.starts import Starts
from meterline_aggregate.kinds.grouping import Grouping, group, packed, unpacked
from meterline_aggregate.windows.calendar import Grain

Int64s = npt.NDArray[np.int64]


def fold_vectors(messages: Sequence[Message]) -> Changes:
    """Gives the same result as `fold_plain`; at least one message must have rows.

    Raises UnsuitableError when a number is too wide for 64 bits, and OddMinuteError when a local day begins
    within a minute.
    """
    batches = [batch for message in messages for batch in message.batches]
    layout = Layout(messages)
    scales = _scales(messages, layout)
    cells = make_cells(messages, layout, scales)
    totals = _totals(layout, cells)
    if not layout.meters:
        return Changes(batches, WindowChanges(), MemberChanges(), ContributionChanges(), totals)
    adding = _Adding(layout, cells, scales, batches)
    return Changes(
        batches,
        WindowChanges.joined([adding.windows(grain) for grain in Grain]),
        fold_members(messages, layout, cells) if layout.has_members else MemberChanges(),
        adding.contributions(),
        totals,
    )


def _scales(messages: Sequence[Message], layout: Layout) -> list[int]:
    """The finest scale of each measure; all values are converted to it."""
    return [
        max((message.quantities[name].scale for message in messages if name in message.quantities), default=0)
        for name in layout.measures
    ]


def _totals(layout: Layout, cells: Cells) -> dict[int, int]:
    sums = np.zeros(len(layout.series), np.int64)
    np.add.at(sums, cells.series, cells.counts[0])
    totals: dict[int, int] = {}
    for series, count in zip(layout.series, sums.tolist(), strict=True):
        if count:
            totals[series.tenant_id] = totals.get(series.tenant_id, 0) + count
    return totals


class _Adding:
    """Every cell with every target that it adds to: the rows that windows are folded from."""

    def __init__(self, layout: Layout, cells: Cells, scales: Sequence[int], batches: Sequence[Batch]) -> None:
        self._layout = layout
        self._batches = batches
        self._by_rank = np.array(sorted(range(len(batches)), key=lambda n: batches[n].batch_id), np.int64)
        rank_of = np.empty_like(self._by_rank)
        rank_of[self._by_rank] = np.arange(len(batches))
        rows, targets = layout.table.expand(cells.series)
        counts = cells.counts[layout.table.measure[targets], rows]
        if not counts.all():
            kept = np.flatnonzero(counts)
            rows, targets, counts = rows[kept], targets[kept], counts[kept]
        measure = layout.table.measure[targets]
        self._rows, self._counts = rows, counts
        self._meter, self._group = layout.table.meter[targets], layout.table.group[targets]
        self._numbers_of = {slot.code: each.at(measure, rows) for slot, each in cells.numbers.items()}
        self._batch_rank = rank_of[cells.batch][rows]
        self._starts = Starts(layout, cells.series, cells.minute)
        self._group_ids = np.array(layout.groups, np.int64)
        self._scale_of_meter = np.array(scales, np.int64)[layout.measure_of_meter]

    def windows(self, grain: Grain) -> WindowChanges:
        sizes = (self._starts.span, len(self._layout.groups))
        grouping = group(
            *packed(
                (self._meter, len(self._layout.meters)),
                (self._starts.of(grain)[self._rows], sizes[0]),
                (self._group, sizes[1]),
            )
        )
        meter, start, group_rank = unpacked(grouping.keys, *sizes)
        return WindowChanges(
            np.full(len(meter), int(grain), np.int64),
            self._layout.tenant_of_meter[meter],
            self._layout.id_of_meter[meter],
            self._starts.microseconds(start),
            self._group_ids[group_rank],
            grouping.sums(self._counts),
            self._by_rank[grouping.greatest(self._batch_rank)],
            self._numbers(grouping, meter, slice(None)),
        )

    def contributions(self) -> ContributionChanges:
        here = np.flatnonzero(self._group == self._layout.group_rank[TOTAL])
        sizes = (self._starts.span, len(self._batches))
        grouping = group(
            *packed(
                (self._meter[here], len(self._layout.meters)),
                (self._starts.lineage[self._rows[here]], sizes[0]),
                (self._batch_rank[here], sizes[1]),
            )
        )
        meter, start, batch_rank = unpacked(grouping.keys, *sizes)
        return ContributionChanges(
            self._layout.tenant_of_meter[meter],
            self._layout.id_of_meter[meter],
            self._starts.microseconds(start),
            self._by_rank[batch_rank],
            grouping.sums(self._counts[here]),
            self._numbers(grouping, meter, here),
        )

    def _numbers(self, grouping: Grouping, meter: Int64s, rows: Int64s | slice) -> Numbers:
        """The merged numbers of each group's rows; `meter` is the rank of each group's meter."""
        slot = self._layout.slot_of_meter[meter]
        units: list[int | None] | None = None
        for code, numbers in self._numbers_of.items():
            merged = numbers.merged(grouping, rows)
            if units is None:
                # Correct for all rows if no other slot folds columns; ignored where a row's slot has no
                # number.
                units = cast("list[int | None]", merged)
            else:
                for place in np.flatnonzero(slot == code).tolist():
                    units[place] = merged[place]
        return Numbers(slot, units or [0] * len(meter), self._scale_of_meter[meter])
