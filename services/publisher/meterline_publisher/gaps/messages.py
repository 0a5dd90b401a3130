"""Converts billing gaps to protobuf."""

from __future__ import annotations

from meterline.decimals import to_text
from meterline_protos.publisher.v1 import invoices_pb2

from meterline_publisher.gaps.rules import Gap, GapReason, StoredGap


def reason(of: GapReason) -> invoices_pb2.BillingGapReason.ValueType:
    return invoices_pb2.BillingGapReason.Value(f"BILLING_GAP_REASON_{of.name}")


def left_out(found: Gap) -> invoices_pb2.LeftOutMeter:
    return invoices_pb2.LeftOutMeter(
        meter=found.meter,
        reason=reason(found.reason),
        detail=found.detail,
        quantity="" if found.quantity is None else to_text(found.quantity),
    )


def gap(record: StoredGap) -> invoices_pb2.BillingGap:
    message = invoices_pb2.BillingGap(
        tenant_id=record.slug,
        meter=record.meter,
        reason=reason(GapReason(record.reason)),
        detail=record.detail,
        quantity="" if record.quantity is None else to_text(record.quantity),
    )
    message.period_start.FromDatetime(record.period_start)
    message.period_end.FromDatetime(record.period_end)
    message.since.FromDatetime(record.since)
    return message
