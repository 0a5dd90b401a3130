"""The message of a batch of corrections, made from its rows: at first, and whenever it is needed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from meterline_protos.common.v1 import types_pb2

from meterline_ingest import events
from meterline_ingest.domain.columns import NO_PROPERTIES, UUID_DTYPE, Columns
from meterline_ingest.domain.corrections import SignedRow, interned
from meterline_ingest.domain.event_types import MAX_QUANTITIES
from meterline_ingest.domain.fields import Fields, Variant
from meterline_ingest.domain.outcomes import Problems
from meterline_ingest.domain.type_book import TypeBook
from meterline_ingest.domain.validation import Checked, Slot


def events_corrected(
    tenant_id: int,
    batch_id: bytes,
    trace: types_pb2.TraceContext,
    received_at_us: int,
    rows: Sequence[SignedRow],
    types: TypeBook,
) -> bytes:
    """Serialises one batch. The rows that it takes away come first."""
    taken = [row for row in rows if row.retracted]
    ordered = [*taken, *(row for row in rows if not row.retracted)]
    header = events.BatchHeader(
        batch_id,
        len(ordered),
        trace,
        received_at_us,
        len(taken),
        b"".join(row.taken_from.bytes for row in taken if row.taken_from is not None),
    )
    checked = _checked(tenant_id, ordered, types)
    return events.events_accepted(checked, np.ones(len(ordered), np.bool_), [header], types)


def _checked(tenant_id: int, rows: Sequence[SignedRow], types: TypeBook) -> Checked:
    """Rows that were judged before, in the form that capture gives them."""
    contents = [row.content for row in rows]
    nothing = np.zeros(len(rows), np.uint32)
    subjects, subject_index = interned([content.subject for content in contents])
    series, series_index = interned([content.series(tenant_id) for content in contents])
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
        np.array([content.time_us for content in contents], np.int64),
        [],
    )
    fields = Fields(series, series_index.astype(np.int64), np.arange(len(rows)), {})
    fields.variants.update(_variants(tenant_id, rows, types))
    tenants = np.array([tenant_id], np.int64)
    slots = [_slot([content.units[at] for content in contents]) for at in range(MAX_QUANTITIES)]
    return Checked(columns, Problems(len(rows)), tenants, fields, slots)


def _slot(units: Sequence[int | None]) -> Slot | None:
    if all(each is None for each in units):
        return None
    present = np.array([each is not None for each in units], np.bool_)
    return Slot(np.array([each or 0 for each in units], np.int64), None if present.all() else present)


def _variants(tenant_id: int, rows: Sequence[SignedRow], types: TypeBook) -> Mapping[int, Variant]:
    """What identity reads of properties."""
    found = {}
    for at, row in enumerate(rows):
        definition = types.find(tenant_id, row.content.event_type)
        if definition is not None and definition.for_identity:
            properties = dict(row.content.properties)
            found[at] = Variant(tenant_id, definition, (), (), properties, {}, [])
    return found
