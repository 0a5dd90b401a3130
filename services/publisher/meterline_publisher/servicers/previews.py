"""Previews: the part of InvoicesService that answers with invoices as they would be."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.rpc import fields
from meterline_protos.publisher.v1 import invoices_pb2, invoices_pb2_grpc

from meterline_publisher.handlers.previews import Previews
from meterline_publisher.servicers import gap_messages, invoice_messages, preview_messages

Context = aio.ServicerContext[Any, Any]


class PreviewsServicer(invoices_pb2_grpc.InvoicesServiceServicer):
    """See protos/meterline/publisher/v1/invoices.proto."""

    def __init__(self, previews: Previews) -> None:
        self._previews = previews

    async def PreviewInvoice(
        self, request: invoices_pb2.PreviewInvoiceRequest, context: Context
    ) -> invoices_pb2.PreviewInvoiceResponse:
        found = await self._previews.preview(
            fields.name("tenant_id", request.tenant_id),
            fields.required_instant(request, "at"),
            preview_messages.deltas("changes", request.changes),
        )
        return invoices_pb2.PreviewInvoiceResponse(
            invoice=invoice_messages.invoice(found.tenant.slug, found.invoice, found.lines),
            final_invoice_id=str(found.final.invoice_id) if found.final else "",
            left_out=map(gap_messages.left_out, found.left_out),
        )
