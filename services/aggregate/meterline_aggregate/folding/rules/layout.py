"""Dictionaries for one fold: series, targets, meters, groups and measures by small numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from meterline_aggregate.folding.rules.rows import EVERY_EVENT, SUBJECT, Message, Target
from meterline_aggregate.kinds.slots.table import SLOTS
from meterline_aggregate.windows.calendar import MINUTE_US, local_starts

Int64s = npt.NDArray[np.int64]
T = TypeVar("T")


class TargetTable:
    """The targets of every series, concatenated."""

    def __init__(self, layout: Layout, targets: Sequence[Sequence[Target]]) -> None:
        flat = [(series, target) for series, some in enumerate(targets) for target in some]
        counts = np.array([len(some) for some in targets], np.int64)
        self._counts = counts
        self._firsts = np.cumsum(counts) - counts
        self.meter = _column(
            layout.meter_rank[layout.series[series].tenant_id, target.meter_id] for series, target in flat
        )
        self.group = _column(layout.group_rank[target.group_id] for _, target in flat)
        self.measure = _column(layout.measure_rank[target.measure] for _, target in flat)
        self.targets = [target for _, target in flat]

    def expand(self, series: Int64s) -> tuple[Int64s, Int64s]:
        """Joins rows with the targets of their series: positions of rows, and of targets in this table."""
        repeats = self._counts[series]
        rows = np.repeat(np.arange(len(series)), repeats)
        shift = self._firsts[series] - (np.cumsum(repeats) - repeats)
        return rows, np.arange(len(rows)) + np.repeat(shift, repeats)


class Layout:
    """Ranks are dense and ascending, so that keys made of ranks sort like the keys of the tables.

    A meter's rank is the rank of (tenant, meter).
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        found = {id(series): series for message in messages for series in message.series}
        self.series = list(found.values())
        self._position = {key: position for position, key in enumerate(found)}
        targets = [(series.tenant_id, target) for series in self.series for target in series.targets]
        self.meters = sorted({(tenant_id, target.meter_id) for tenant_id, target in targets})
        self.groups = sorted({target.group_id for _, target in targets})
        self.measures = [EVERY_EVENT, *sorted({target.measure for _, target in targets} - {EVERY_EVENT})]
        self.meter_rank = _ranks(self.meters)
        self.group_rank = _ranks(self.groups)
        self.measure_rank = _ranks(self.measures)
        self._describe_meters(target for _, target in targets)
        self.table = TargetTable(self, [series.targets for series in self.series])
        zones = sorted({series.zone for series in self.series})
        zone_rank = _ranks(zones)
        self._zones = zones
        self._zone_of_series = _column(zone_rank[series.zone] for series in self.series)

    def _describe_meters(self, targets: Iterable[Target]) -> None:
        by_meter = {target.meter_id: target for target in targets}
        meter_targets = [by_meter[meter_id] for _, meter_id in self.meters]
        self.tenant_of_meter = _column(tenant_id for tenant_id, _ in self.meters)
        self.id_of_meter = _column(meter_id for _, meter_id in self.meters)
        self.slot_of_meter = _column(target.slot.code for target in meter_targets)
        self.measure_of_meter = _column(self.measure_rank[target.measure] for target in meter_targets)
        self.has_members = any(target.slot.has_members for target in meter_targets)
        folded = {(target.measure, target.slot) for target in meter_targets if target.slot.cells is not None}
        # The slots that fold the column of each measure, and all such slots.
        self.slots_of_measure = [
            [slot for slot in SLOTS if (measure, slot) in folded] for measure in self.measures
        ]
        slots = {slot for _, slot in folded}
        self.cells_of_slot = [
            (slot, slot.cells) for slot in SLOTS if slot in slots and slot.cells is not None
        ]

    def positions(self, message: Message) -> Int64s:
        """The positions of a message's series among all series."""
        return _column(self._position[id(series)] for series in message.series)

    def members_of(self, *, subjects: bool) -> TargetTable:
        """The targets whose members are subjects, or those whose members are values of dimensions."""
        return TargetTable(
            self,
            [
                [
                    target
                    for target in series.targets
                    if target.slot.has_members and (target.measure == SUBJECT) is subjects
                ]
                for series in self.series
            ],
        )

    def local_starts(self, series: Int64s, minutes: Int64s) -> tuple[Int64s, Int64s]:
        """The starts of the local days and months that contain each minute, all in minutes since the epoch.

        Raises OddMinuteError.
        """
        days, months = np.empty_like(minutes), np.empty_like(minutes)
        zone_of_row = self._zone_of_series[series]
        for rank, zone in enumerate(self._zones):
            here = np.flatnonzero(zone_of_row == rank)
            day, month = local_starts(zone, minutes[here] * MINUTE_US)
            days[here], months[here] = day // MINUTE_US, month // MINUTE_US
        return days, months


def _column(values: Iterable[int]) -> Int64s:
    return np.fromiter(values, np.int64)


def _ranks(values: Sequence[T]) -> dict[T, int]:
    return {value: rank for rank, value in enumerate(values)}
