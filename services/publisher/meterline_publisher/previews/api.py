"""The RPC of InvoicesService that previews invoices."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.rpc import fields
from meterline_protos.publisher.v1 import invoices_pb2, invoices_pb2_grpc

from meterline_publisher.gaps import messages as gaps_messages
from meterline_publisher.invoices import messages as invoices_messages
from meterline_publisher.previews import messages
from meterline_publisher.previews.service import Previews

Context = aio.ServicerContext[Any, Any]


class PreviewsServicer(invoices_pb2_grpc.InvoicesServiceServicer):
    """See protos/meterline/publisher/v1/invoices.proto."""

    def __init__(self, previews: Previews) -> None:
        self._previews = previews

    async def PreviewInvoice(
        self, request: invoices_pb2.PreviewInvoiceRequest, context: Context
    ) -> invoices_pb2.PreviewInvoiceResponse:
        found = await self._previews.preview(
            fields.tenant("tenant_id", request.tenant_id),
            fields.required_instant(request, "at"),
            messages.deltas("changes", request.changes),
        )
        return invoices_pb2.PreviewInvoiceResponse(
            invoice=invoices_messages.invoice(found.tenant.slug, found.invoice, found.lines),
            final_invoice_id=str(found.final.invoice_id) if found.final else "",
            left_out=map(gaps_messages.left_out, found.left_out),
        )
