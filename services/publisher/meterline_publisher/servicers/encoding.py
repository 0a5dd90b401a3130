"""Writing answers: domain to protobuf."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from google.protobuf import struct_pb2
from meterline_protos.publisher.v1 import invoices_pb2, prices_pb2

from meterline_publisher import traces
from meterline_publisher.domain.deliveries import Delivery
from meterline_publisher.domain.gaps import Gap, GapReason, StoredGap
from meterline_publisher.domain.lines import NO_ID
from meterline_publisher.domain.money import plain_text
from meterline_publisher.domain.publications import Publication
from meterline_publisher.domain.records import Invoice, Line
from meterline_publisher.domain.rule_sets import Rule
from meterline_publisher.handlers.plans import Plan


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
        trace=traces.to_proto(record.trace),
    )
    message.period_start.FromDatetime(record.period_start)
    message.period_end.FromDatetime(record.period_end)
    return message


def line(record: Line) -> invoices_pb2.InvoiceLine:
    return invoices_pb2.InvoiceLine(
        line_id="" if record.line_id == NO_ID else str(record.line_id),
        meter=record.meter,
        description=record.description,
        quantity=plain_text(record.quantity),
        amount=str(record.amount),
        exact_amount=record.exact_amount,
        price_version=record.price_version,
        price_digest=record.price_digest,
        steps=[invoices_pb2.RatingStep(**step) for step in record.steps],
        calculation_id="" if record.calculation_id == NO_ID else str(record.calculation_id),
        event_count=record.event_count,
        trace=traces.to_proto(record.trace),
    )


def publication(record: Publication) -> invoices_pb2.Publication:
    message = invoices_pb2.Publication(
        identifier=record.identifier,
        meter=record.meter,
        revision=record.revision,
        value=plain_text(record.value),
        state=invoices_pb2.PublicationState.Value(f"PUBLICATION_STATE_{record.state.upper()}"),
        error_code=record.error_code,
        trace=traces.to_proto(record.trace),
    )
    message.period_start.FromDatetime(record.period_start)
    if record.sent_at is not None:
        message.sent_at.FromDatetime(record.sent_at)
    return message


def reason(of: GapReason) -> invoices_pb2.BillingGapReason.ValueType:
    return invoices_pb2.BillingGapReason.Value(f"BILLING_GAP_REASON_{of.name}")


def left_out(found: Gap) -> invoices_pb2.LeftOutMeter:
    return invoices_pb2.LeftOutMeter(
        meter=found.meter,
        reason=reason(found.reason),
        detail=found.detail,
        quantity="" if found.quantity is None else plain_text(found.quantity),
    )


def gap(record: StoredGap) -> invoices_pb2.BillingGap:
    message = invoices_pb2.BillingGap(
        tenant_id=record.slug,
        meter=record.meter,
        reason=reason(GapReason(record.reason)),
        detail=record.detail,
        quantity="" if record.quantity is None else plain_text(record.quantity),
    )
    message.period_start.FromDatetime(record.period_start)
    message.period_end.FromDatetime(record.period_end)
    message.since.FromDatetime(record.since)
    return message


def price(rule: Rule) -> prices_pb2.Price:
    """A version with its canonical body, which is what the digest covers."""
    body = struct_pb2.Struct()
    body.update(rule.version.price.body())
    message = prices_pb2.Price(
        plan=rule.plan,
        meter=rule.meter,
        version=rule.version.version,
        body=body,
        description=rule.description,
        billing_event_name=rule.event_name,
        billing_scale=rule.scale,
        digest=rule.digest,
    )
    start = rule.version.effective_from
    if isinstance(start, datetime):
        message.effective_from.FromDatetime(start)
    else:
        message.effective_date = start.isoformat()
    return message


def plan(record: Plan) -> prices_pb2.Plan:
    message = prices_pb2.Plan(plan=record.name, archived_by=record.archived_by)
    if record.archived_at is not None:
        message.archived_at.FromDatetime(record.archived_at)
    return message


def delivery(record: Delivery) -> prices_pb2.Delivery:
    message = prices_pb2.Delivery(
        plan=record.plan,
        meter=record.meter,
        version=record.version,
        billing_event_name=record.event_name,
        billing_scale=record.scale,
        put_by=record.put_by,
    )
    message.put_at.FromDatetime(record.put_at)
    return message
