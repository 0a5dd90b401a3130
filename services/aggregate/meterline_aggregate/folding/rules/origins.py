"""Finds the meters that counted a retracted row when it was folded.

A meter created since then did not count the row, and must not subtract it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from meterline.ids import made_at_ms

from meterline_aggregate.folding.rules.rows import Message, Series
from meterline_aggregate.windows.calendar import windows_at


class Origin(NamedTuple):
    """A tenant's batch that brought retracted rows."""

    tenant_id: int
    batch_id: bytes

    @property
    def accepted_us(self) -> int:
        """When the batch was accepted, in whole milliseconds: its id is a UUIDv7."""
        return made_at_ms(uuid.UUID(bytes=self.batch_id)) * 1_000


@dataclass(frozen=True, slots=True)
class Counted:
    """Facts about origins.

    slices: for each origin that has contributions, their (meter, start)
    here: batches that are folded together with the retraction of their rows
    meters_us: when each meter was created
    """

    slices: Mapping[Origin, Collection[tuple[int, int]]]
    here: Collection[bytes]
    meters_us: Mapping[int, int]

    def by(self, origin: Origin, meter_id: int, slice_us: int) -> bool:
        """Whether the meter counted, or will count, rows of the origin in this slice of time."""
        if origin.batch_id in self.here or not origin.batch_id:
            return True
        slices = self.slices.get(origin)
        if slices is not None:
            return (meter_id, slice_us) in slices
        # The origin is not folded yet, or no meter counted it.
        return self.meters_us[meter_id] <= origin.accepted_us


def limit_to_counted(message: Message, origins: Sequence[bytes], counted: Counted) -> Message:
    """The message, with each retracted row limited to the targets that counted it.

    origins: for each retracted row, in order; empty where unknown
    """
    if message.retracted is None:
        return message
    series = list(message.series)
    index = message.series_index.copy()
    limited: dict[tuple[int, frozenset[int]], int] = {}
    for row, batch_id in zip(np.flatnonzero(message.retracted).tolist(), origins, strict=True):
        position = int(message.series_index[row])
        own = message.series[position]
        slice_us = windows_at(own.zone, int(message.times_us[row])).lineage
        origin = Origin(own.tenant_id, batch_id)
        kept = frozenset(
            target.meter_id for target in own.targets if counted.by(origin, target.meter_id, slice_us)
        )
        place = limited.get((position, kept))
        if place is None:
            place = limited[position, kept] = len(series)
            series.append(with_targets(own, kept.__contains__))
        index[row] = place
    return replace(message, series=series, series_index=index)


def with_targets(series: Series, chosen: Callable[[int], bool]) -> Series:
    """The series with the targets of the chosen meters only."""
    return replace(series, targets=tuple(target for target in series.targets if chosen(target.meter_id)))
