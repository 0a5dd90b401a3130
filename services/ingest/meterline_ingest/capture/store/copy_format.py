"""Event rows in the binary form that COPY reads, built with arrays: no Python object a row or value.

Rows of one shape (the same quantities present) have one width, so each shape is one structured array.
`tests/unit/ingest/test_copy_format.py` compares it with the driver's own encoding, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from meterline.db.arrays import COPY_HEADER, COPY_TRAILER, POSTGRES_EPOCH_US

from meterline_ingest.capture.rules.quantities import Slot
from meterline_ingest.event.bounds import MAX_QUANTITIES
from meterline_ingest.event.columns import Ids, Int64s

_FIELDS = 6 + MAX_QUANTITIES


@cache
def _template(shape: int) -> npt.NDArray[np.void]:
    """One row with its field count and lengths; bit i of `shape` says whether quantity i is present."""
    fields: list[tuple[str, str]] = [("count", ">i2")]
    lengths: dict[str, int] = {}

    def add(name: str, width: int, dtype: str) -> None:
        fields.extend([(f"{name}_length", ">i4"), (name, dtype)])
        lengths[f"{name}_length"] = width

    add("event_id", 16, "V16")
    add("batch_number", 8, ">i8")
    add("subject_id", 8, ">i8")
    add("occurred_at", 8, ">i8")
    for at in range(MAX_QUANTITIES):
        if shape >> at & 1:
            add(f"quantity_{at}", 8, ">i8")
        else:
            fields.append((f"quantity_{at}_length", ">i4"))
            lengths[f"quantity_{at}_length"] = -1
    add("tenant_id", 4, ">i4")
    add("series_id", 4, ">i4")
    row = np.zeros(1, np.dtype(fields))
    row["count"] = _FIELDS
    for name, width in lengths.items():
        row[name] = width
    return row


def event_rows(
    ids: Ids,
    batch_numbers: Int64s,
    subject_ids: Int64s,
    times_us: Int64s,
    slots: Sequence[Slot | None],
    tenant_ids: Int64s,
    series_ids: Int64s,
) -> bytes:
    """A whole COPY input, header and trailer included. Rows are grouped by shape."""
    always, shapes = 0, None
    for at, slot in enumerate(slots):
        if slot is None:
            continue
        if slot.present is None:
            always |= 1 << at
        else:
            part = slot.present.astype(np.int64) << at
            shapes = part if shapes is None else shapes | part
    groups: list[tuple[int, Int64s | slice]] = [(always, slice(None))]
    if shapes is not None:
        found = np.unique(shapes).tolist()
        groups = [(always | shape, np.flatnonzero(shapes == shape)) for shape in found]
    parts = [COPY_HEADER]
    for shape, rows in groups:
        chosen = ids[rows]
        cells = np.repeat(_template(shape), len(chosen))
        cells["event_id"] = chosen
        cells["batch_number"] = batch_numbers[rows]
        cells["subject_id"] = subject_ids[rows]
        cells["occurred_at"] = times_us[rows] - POSTGRES_EPOCH_US
        for at, slot in enumerate(slots):
            if slot is not None and shape >> at & 1:
                cells[f"quantity_{at}"] = slot.units[rows]
        cells["tenant_id"] = tenant_ids[rows]
        cells["series_id"] = series_ids[rows]
        parts.append(cells.tobytes())
    parts.append(COPY_TRAILER)
    return b"".join(parts)
