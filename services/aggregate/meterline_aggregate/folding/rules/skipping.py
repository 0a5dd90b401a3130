"""Separates the changes of meters of unknown kinds, to be folded when their kind is known."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from meterline_aggregate.folding.rules.changes import Changes, Rebuilds, Skipped
from meterline_aggregate.folding.rules.digests import digest
from meterline_aggregate.folding.rules.rows import TOTAL
from meterline_aggregate.windows.calendar import Grain

# Identifies a contribution: tenant, meter, start, and the id of the batch.
Slice = tuple[int, int, int, bytes]


def mark(event_type: str, dimensions: Iterable[tuple[str, str]], subject: str, time_us: int) -> bytes:
    """16 bytes that identify a row within its batch, as far as counting requires."""
    return digest(json.dumps([event_type, sorted(dimensions), subject, time_us]))


def set_aside(changes: Changes, unknown: Collection[int], taken: Mapping[Slice, bytes]) -> Changes:
    """The changes without those of unknown meters, which become `skipped`; their months await a rebuild.

    taken: marks of the rows that are retracted from unknown meters
    """
    numbers = np.array(sorted(unknown), np.int64)
    windows, given = changes.windows, changes.contributions
    here, there = np.isin(windows.meter_id, numbers), np.isin(given.meter_id, numbers)
    months = windows.only(here & (windows.grain == Grain.MONTH) & (windows.group_id == TOTAL))
    skipped = given.only(there)
    slices = zip(
        skipped.tenant_id.tolist(),
        skipped.meter_id.tolist(),
        skipped.start_us.tolist(),
        [changes.batches[batch].batch_id for batch in skipped.batch.tolist()],
        strict=True,
    )
    waiting = zip(months.tenant_id.tolist(), months.meter_id.tolist(), months.start_us.tolist(), strict=True)
    return replace(
        changes,
        windows=windows.only(~here),
        contributions=given.only(~there),
        rebuilds=Rebuilds(
            sorted({*changes.rebuilds.months, *waiting}),
            changes.rebuilds.sources,
        ),
        skipped=Skipped(skipped, [taken.get(each, b"") for each in slices]),
    )
