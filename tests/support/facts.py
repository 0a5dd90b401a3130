"""`events.accepted` as plain values, so that two messages can be compared by content."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from meterline.packing import unpack_signed, unpack_unsigned
from meterline_protos.events.v1 import events_pb2

Header = tuple[bytes, int, bytes, int]
"""Batch id, rows, trace, time of receipt."""


@dataclass(frozen=True)
class DecodedEvent:
    """One event. Quantities as (units, scale)."""

    batch_id: bytes
    event_id: uuid.UUID
    tenant_id: int
    event_type: str
    dimensions: tuple[tuple[str, str], ...]
    for_identity: bool
    subject: str
    time_us: int
    quantities: tuple[tuple[str, int, int], ...]
    properties: tuple[tuple[str, str], ...]


def decoded(payload: bytes) -> tuple[list[Header], set[DecodedEvent]]:
    """The batches in order, and the events as a set, since their order within a batch has no meaning."""
    fact = events_pb2.EventsAccepted.FromString(payload)
    rows = sum(batch.rows for batch in fact.batches)
    batch_of = [batch.batch_id for batch in fact.batches for _ in range(batch.rows)]
    series = unpack_unsigned(fact.series_index, rows).tolist()
    subjects = unpack_unsigned(fact.subject_index, rows).tolist()
    times = unpack_signed(fact.times_us, rows).tolist()
    quantities = [
        (each.name, each.scale, unpack_signed(each.units, rows).tolist(), each.present or b"\1" * rows)
        for each in fact.quantities
    ]
    properties = [
        (each.name, list(each.values), unpack_unsigned(each.index, rows).tolist()) for each in fact.properties
    ]
    decoded_events = {
        DecodedEvent(
            batch_of[row],
            uuid.UUID(bytes=fact.event_ids[16 * row : 16 * row + 16]),
            fact.series[series[row]].tenant_id,
            fact.series[series[row]].event_type,
            tuple((each.name, each.value) for each in fact.series[series[row]].dimensions),
            fact.series[series[row]].for_identity,
            fact.subjects[subjects[row]],
            fact.base_us + times[row],
            tuple(
                sorted(
                    (name, units[row], scale) for name, scale, units, present in quantities if present[row]
                )
            ),
            tuple(sorted((name, values[index[row] - 1]) for name, values, index in properties if index[row])),
        )
        for row in range(rows)
    }
    assert len(decoded_events) == rows
    headers = [
        (batch.batch_id, batch.rows, batch.trace.SerializeToString(), batch.received_at_us)
        for batch in fact.batches
    ]
    return headers, decoded_events
