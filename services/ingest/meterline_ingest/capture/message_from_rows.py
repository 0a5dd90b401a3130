"""Rebuilds the message of a commit from the rows that it reported.

It has the same batches in the same order, and the same content of each event. Rows of a batch may be in
another order, and types that were extended since have their present form.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from meterline_ingest.capture import message
from meterline_ingest.capture.rules.combinations import Fields, Variant
from meterline_ingest.capture.rules.quantities import Slot
from meterline_ingest.capture.rules.validation import Checked
from meterline_ingest.capture.store.messages import MessageBatch, MessageRow
from meterline_ingest.event.bounds import MAX_QUANTITIES
from meterline_ingest.event.columns import NO_PROPERTIES, UUID_DTYPE, Columns, interned
from meterline_ingest.event.problems import Problems
from meterline_ingest.event.series import SeriesKey
from meterline_ingest.event_types.rules.book import TypeBook


def events_accepted_again(
    message_batches: Sequence[MessageBatch], rows: Sequence[MessageRow], types: TypeBook
) -> bytes:
    """Serialises all rows of the batches `message_batches`, both in the order of the message."""
    headers = []
    # A call with events of several tenants is one batch in the message.
    for batch_id, parts in groupby(message_batches, key=lambda batch: batch.batch_id):
        same = list(parts)
        count = sum(batch.event_count for batch in same)
        headers.append(message.BatchHeader(batch_id.bytes, count, same[0].trace, same[0].received_at_us))
    return message.events_accepted(as_captured(rows, types), np.ones(len(rows), np.bool_), headers, types)


def as_captured(rows: Sequence[MessageRow], types: TypeBook) -> Checked:
    """Stored rows in the form that capture passes to `message`; parts that no message uses are empty."""
    nothing = np.zeros(len(rows), np.uint32)
    subjects, subject_index = interned([row.subject for row in rows])
    columns = Columns(
        [""],
        nothing,
        [""],
        nothing,
        subjects,
        subject_index,
        [()],
        nothing,
        list(NO_PROPERTIES),
        nothing,
        np.frombuffer(b"".join(row.event_id.bytes for row in rows), UUID_DTYPE),
        None,
        np.array([row.time_us for row in rows], np.int64),
        [],
    )
    slots = [_slot([row.units[at] for row in rows]) for at in range(MAX_QUANTITIES)]
    return Checked(columns, Problems(len(rows)), np.zeros(1, np.int64), _fields(rows, types), slots)


def _fields(rows: Sequence[MessageRow], types: TypeBook) -> Fields:
    keys = [
        (
            SeriesKey(row.tenant_id, row.event_type, tuple(sorted(row.dimensions.items()))),
            tuple(sorted(row.properties.items())),
        )
        for row in rows
    ]
    combinations, index = interned(keys)
    series, series_index = interned([key for key, _ in keys])
    variants = {}
    for at, (key, properties) in enumerate(combinations):
        definition = types.find(key.tenant_id, key.event_type)
        if definition is not None and definition.has_details:
            variants[at] = Variant(key.tenant_id, definition, (), (), dict(properties), {}, [])
    return Fields(series, series_index.astype(np.int64), index.astype(np.int64), variants)


def _slot(units: Sequence[int | None]) -> Slot | None:
    present = np.array([value is not None for value in units])
    if not present.any():
        return None
    return Slot(np.array([value or 0 for value in units], np.int64), present)
