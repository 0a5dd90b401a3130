"""Converts rows of the ledger to protobuf."""

from __future__ import annotations

from meterline.decimals import to_text
from meterline.telemetry import traceparent
from meterline_protos.publisher.v1 import invoices_pb2

from meterline_publisher.ledger.rules.publications import Publication


def publication(record: Publication) -> invoices_pb2.Publication:
    message = invoices_pb2.Publication(
        identifier=record.identifier,
        meter=record.meter,
        revision=record.revision,
        value=to_text(record.value),
        state=invoices_pb2.PublicationState.Value(f"PUBLICATION_STATE_{record.state.upper()}"),
        error_code=record.error_code,
        trace=traceparent.to_proto(record.trace),
    )
    message.period_start.FromDatetime(record.period_start)
    if record.sent_at is not None:
        message.sent_at.FromDatetime(record.sent_at)
    return message
