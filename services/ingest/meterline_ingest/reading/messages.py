"""Stored events and batches as API messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meterline import decimals
from meterline.clock import to_datetime
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import events_pb2

from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.reading.store import StoredBatch, StoredEvent
from meterline_ingest.reading.unseal import Opened


def events_to_proto(
    slug: str, tenant_id: int, events: Sequence[StoredEvent], types: TypeBook, opened: Opened
) -> list[events_pb2.StoredEvent]:
    return [_event(slug, tenant_id, event, types, opened.get(event.event_id, {})) for event in events]


def _event(
    slug: str, tenant_id: int, event: StoredEvent, types: TypeBook, opened: Mapping[str, str]
) -> events_pb2.StoredEvent:
    definition = types.find(tenant_id, event.event_type)
    quantities = () if definition is None else definition.quantities
    message = events_pb2.StoredEvent(
        event_id=event.text_id or str(event.event_id),
        tenant_id=slug,
        type=event.event_type,
        subject=event.subject,
        dimensions=event.dimensions,
        quantities={
            quantity.name: decimals.units_to_text(units, quantity.scale)
            for quantity, units in zip(quantities, event.units, strict=False)
            if units is not None
        },
        batch_id=str(event.batch_id),
        properties={**(event.properties or {}), **opened},
        sealed_properties=event.sealed_names or (),
        flags=event.flags or (),
        retracted=event.retracted,
        revision=event.revision,
        origin_batch_id=str(event.origin or ""),
    )
    message.time.FromDatetime(event.occurred_at)
    message.received_at.FromDatetime(event.received_at)
    sent_time = to_datetime(event.sent_us)
    if sent_time != event.occurred_at:
        message.sent_time.FromDatetime(sent_time)
    return message


def batch_to_proto(slug: str, batch: StoredBatch) -> events_pb2.Batch:
    message = events_pb2.Batch(
        batch_id=str(batch.batch_id),
        tenant_id=slug,
        source=batch.source,
        event_count=batch.event_count,
        trace=types_pb2.TraceContext(trace_id=batch.trace_id, span_id=batch.span_id, sampled=batch.sampled),
        message_id=str(batch.message_id),
        retracted=batch.retracted,
    )
    message.received_at.FromDatetime(batch.received_at)
    return message
