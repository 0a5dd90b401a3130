"""The RPCs of InvoicesService that return stored invoices."""

from __future__ import annotations

from typing import Any

from grpc import aio
from meterline.rpc import fields, paging
from meterline_protos.publisher.v1 import invoices_pb2, invoices_pb2_grpc

from meterline_publisher.invoices import messages
from meterline_publisher.invoices.service import Invoices

Context = aio.ServicerContext[Any, Any]


class StoredInvoicesServicer(invoices_pb2_grpc.InvoicesServiceServicer):
    """See protos/meterline/publisher/v1/invoices.proto."""

    def __init__(self, invoices: Invoices) -> None:
        self._invoices = invoices

    async def GetInvoice(
        self, request: invoices_pb2.GetInvoiceRequest, context: Context
    ) -> invoices_pb2.GetInvoiceResponse:
        tenant, invoice, lines = await self._invoices.get(
            fields.tenant("tenant_id", request.tenant_id),
            fields.identifier("invoice_id", request.invoice_id),
        )
        return invoices_pb2.GetInvoiceResponse(invoice=messages.invoice(tenant.slug, invoice, lines))

    async def ListInvoices(
        self, request: invoices_pb2.ListInvoicesRequest, context: Context
    ) -> invoices_pb2.ListInvoicesResponse:
        limit = paging.size(request.page_size)
        key = paging.key(request.page_token, paging.instant)
        before = key[0] if key else fields.LATEST
        # One more than requested shows whether there is a next page.
        tenant, found = await self._invoices.page(
            fields.tenant("tenant_id", request.tenant_id), before, limit + 1
        )
        page = found[:limit]
        return invoices_pb2.ListInvoicesResponse(
            invoices=[messages.invoice(tenant.slug, invoice, lines) for invoice, lines in page],
            next_page_token=paging.token(page[-1][0].period_start) if len(found) > limit else "",
        )
