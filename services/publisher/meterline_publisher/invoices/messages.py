"""Converts invoices to protobuf."""

from __future__ import annotations

from collections.abc import Iterable

from meterline.decimals import to_text
from meterline.telemetry import traceparent
from meterline_protos.publisher.v1 import invoices_pb2

from meterline_publisher.invoices.rules import NO_ID, Invoice, Line


def invoice(slug: str, record: Invoice, lines: Iterable[Line]) -> invoices_pb2.Invoice:
    """An invoice with its lines; a preview has no ids."""
    total = record.external_total
    message = invoices_pb2.Invoice(
        invoice_id="" if record.invoice_id == NO_ID else str(record.invoice_id),
        tenant_id=slug,
        currency=record.currency,
        state=invoices_pb2.InvoiceState.Value(f"INVOICE_STATE_{record.state.upper()}"),
        total=str(record.total),
        lines=[line(item) for item in lines],
        external_invoice_id=record.external_invoice_id,
        external_total="" if total is None else str(total),
        trace=traceparent.to_proto(record.trace),
    )
    message.period_start.FromDatetime(record.period_start)
    message.period_end.FromDatetime(record.period_end)
    return message


def line(record: Line) -> invoices_pb2.InvoiceLine:
    return invoices_pb2.InvoiceLine(
        line_id="" if record.line_id == NO_ID else str(record.line_id),
        meter=record.meter,
        description=record.description,
        quantity=to_text(record.quantity),
        amount=str(record.amount),
        exact_amount=record.exact_amount,
        price_version=record.price_version,
        price_digest=record.price_digest,
        steps=[invoices_pb2.RatingStep(**step) for step in record.steps],
        calculation_id="" if record.calculation_id == NO_ID else str(record.calculation_id),
        event_count=record.event_count,
        trace=traceparent.to_proto(record.trace),
    )
