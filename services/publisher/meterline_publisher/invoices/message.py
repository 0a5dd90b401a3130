"""Publishes InvoiceChanged."""

from __future__ import annotations

from meterline.bus.subjects import INVOICES_CHANGED
from meterline.transactions.unit_of_work import Transaction
from meterline_protos.events.v1 import events_pb2

from meterline_publisher.invoices.rules import Invoice


def emit_changed(transaction: Transaction, invoice: Invoice) -> None:
    """Publishes the invoice's current state; consumers keep the greatest version."""
    fact = events_pb2.InvoiceChanged(
        tenant_id=invoice.tenant_id,
        invoice_id=str(invoice.invoice_id),
        version=invoice.version,
        state=invoice.state,
        total=str(invoice.total),
        currency=invoice.currency,
    )
    fact.period_start.FromDatetime(invoice.period_start)
    fact.period_end.FromDatetime(invoice.period_end)
    transaction.emit(INVOICES_CHANGED.subject, fact)
