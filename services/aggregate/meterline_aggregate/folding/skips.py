"""Sets aside the contributions of meters of unknown kinds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from meterline_aggregate.folding.decoding import Accepted
from meterline_aggregate.folding.rules.changes import Changes
from meterline_aggregate.folding.rules.rows import Message
from meterline_aggregate.folding.rules.skipping import Slice, mark, set_aside
from meterline_aggregate.windows.calendar import windows_at


def skip(
    changes: Changes, accepted: Sequence[Accepted], messages: Sequence[Message], unknown: Collection[int]
) -> Changes:
    """The changes of `messages`, with those of unknown meters set aside. `accepted` are the same messages,
    decoded.
    """
    if not unknown:
        return changes
    taken: dict[Slice, bytes] = {}
    for one, message in zip(accepted, messages, strict=True):
        _note_taken(taken, one, message, unknown)
    return set_aside(changes, unknown, taken)


def _note_taken(taken: dict[Slice, bytes], one: Accepted, message: Message, unknown: Collection[int]) -> None:
    if message.retracted is None:
        return
    owners = np.repeat(np.arange(len(message.batches)), [batch.rows for batch in message.batches])
    for row in np.flatnonzero(message.retracted).tolist():
        series = message.series[message.series_index[row]]
        meters = [target.meter_id for target in series.targets if target.meter_id in unknown]
        if meters:
            time_us = int(message.times_us[row])
            start = windows_at(series.zone, time_us).lineage
            batch_id = message.batches[owners[row]].batch_id
            own = mark_of(one, row)
            for meter_id in meters:
                key = (series.tenant_id, meter_id, start, batch_id)
                taken[key] = taken.get(key, b"") + own


def mark_of(one: Accepted, row: int) -> bytes:
    """The mark of a row; see `skipping.mark`."""
    series = one.fact.series[one.series_index[row]]
    dimensions = [(dimension.name, dimension.value) for dimension in series.dimensions]
    return mark(
        series.event_type, dimensions, one.fact.subjects[one.subject_index[row]], int(one.times_us[row])
    )
