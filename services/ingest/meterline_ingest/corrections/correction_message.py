"""Makes the message of a batch of corrections from its rows, at first and for replays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from meterline_protos.common.v1 import types_pb2

from meterline_ingest.capture import message
from meterline_ingest.capture.message_from_rows import as_captured
from meterline_ingest.capture.store.messages import MessageRow
from meterline_ingest.corrections.rules.changes import SignedRow
from meterline_ingest.event_types.rules.book import TypeBook


def events_corrected(
    tenant_id: int,
    batch_id: bytes,
    trace: types_pb2.TraceContext,
    received_at_us: int,
    rows: Sequence[SignedRow],
    types: TypeBook,
) -> bytes:
    """Serialises one batch. Its retracted rows come first."""
    taken = [row for row in rows if row.retracted]
    ordered = [*taken, *(row for row in rows if not row.retracted)]
    header = message.BatchHeader(
        batch_id,
        len(ordered),
        trace,
        received_at_us,
        len(taken),
        b"".join(row.retracted_from.bytes for row in taken if row.retracted_from is not None),
    )
    captured = as_captured([_message_row(tenant_id, row) for row in ordered], types)
    return message.events_accepted(captured, np.ones(len(ordered), np.bool_), [header], types)


def _message_row(tenant_id: int, row: SignedRow) -> MessageRow:
    said = row.content
    return MessageRow(
        0,
        tenant_id,
        row.event_id,
        said.time_us,
        said.units,
        said.subject,
        said.event_type,
        dict(said.dimensions),
        dict(said.properties),
    )
